"""Validation of run specs: options that do not compose are refused before the run begins, with the reason."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import UsageError
from eoforge.federated.privacy.dp import epsilon_after
from eoforge.federated.strategy import DELTA, RoundInfo, SiloInfo, Strategy, UpdateInfo, split_name
from eoforge.storage.tensorfile import Array, Specs

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SILO_ID = RUN_ID
MAX_ROUNDS = 100_000
DEFAULT_DELTA = 1e-5
DEFAULT_FRACTION_BITS = 24
MIN_NOISE, MAX_NOISE = 1e-3, 1e6
"""Noise multipliers for which epsilon is a finite number, however many rounds there are."""
MIN_MASKED_SILOS = 3
"""Smallest number of silos that agree on masks: of two, each knows the other's update from the sum."""


def check_spec(spec: pb.RunSpec, strategy: Strategy, model: Specs) -> None:
    """Refuses a run whose options contradict each other.

    Args:
        spec: Spec of the run.
        strategy: Strategy of the run.
        model: Shape, dtype and role of each tensor of the initial model.

    Raises:
        UsageError: All contradictions, in one message.
    """
    problems = [*_policy(spec.policy), *_privacy(spec, strategy), *_probe(spec, strategy, model)]
    if not spec.method:
        problems.insert(0, "a run needs the name of the method that its silos train")
    if spec.data.max_update_norm < 0 or not math.isfinite(spec.data.max_update_norm):
        problems.append("data.max_update_norm must be a finite number, 0 for none")
    ratio = spec.data.max_sample_ratio
    if ratio and not (ratio >= 1 and math.isfinite(ratio)):
        problems.append(f"data.max_sample_ratio must be at least 1, or 0 for none; got {ratio}")
    if spec.data.HasField("max_norm_ratio") and spec.data.max_norm_ratio and not spec.data.max_norm_ratio >= 1:
        problems.append(f"data.max_norm_ratio must be at least 1, or 0 for none; got {spec.data.max_norm_ratio}")
    if problems:
        raise UsageError("; ".join(problems))


def threshold_of(asked: int, silos: int) -> int:
    """Number of silos that must survive: as asked, else two thirds rounded up; always more than half."""
    return max(asked or math.ceil(2 * silos / 3), silos // 2 + 1)


def _policy(policy: pb.RoundPolicy) -> Iterator[str]:
    if not 1 <= policy.rounds <= MAX_ROUNDS:
        yield f"policy.rounds must be 1 to {MAX_ROUNDS}; got {policy.rounds}"
    if policy.min_silos < 1:
        yield "policy.min_silos must be at least 1"
    if policy.quorum > policy.min_silos:
        yield f"policy.quorum ({policy.quorum}) above min_silos ({policy.min_silos}) could never be reached; lower it"
    if policy.HasField("deadline") and policy.deadline.ToTimedelta().total_seconds() <= 0:
        yield "policy.deadline must be longer than 0; leave it out for none"
    if not 0 <= policy.over_selection <= 1:
        yield f"policy.over_selection must be 0 to 1; got {policy.over_selection}"
    if policy.selection in (pb.SELECTION_FRACTION, pb.SELECTION_WEIGHTED):
        if not 0 < policy.fraction <= 1:
            yield f"policy.fraction must be above 0 and at most 1 with this selection; got {policy.fraction}"
    elif policy.over_selection:
        yield "policy.over_selection needs a selection by fraction: with all silos there are none to add"
    if policy.late == pb.LATE_POLICY_FOLD and not 0 < policy.late_discount <= 1:
        yield f"policy.late_discount must be above 0 and at most 1 to fold late updates in; got {policy.late_discount}"
    if policy.target_metric and not policy.evaluate_every:
        yield "policy.target_metric needs evaluate_every: without evaluation it is never measured"


def _privacy(spec: pb.RunSpec, strategy: Strategy) -> Iterator[str]:
    privacy = spec.privacy
    if privacy.dp:
        if not (privacy.clip_norm > 0 and math.isfinite(privacy.clip_norm)):
            yield "differential privacy needs privacy.clip_norm above 0"
        if not MIN_NOISE <= privacy.noise_multiplier <= MAX_NOISE:
            yield f"privacy.noise_multiplier must be {MIN_NOISE:g} to {MAX_NOISE:g}; got {privacy.noise_multiplier}"
        if not 0 <= privacy.delta < 1:
            yield f"privacy.delta must be between 0 and 1; got {privacy.delta}"
        yield from _budget(privacy)
        if strategy.up != (DELTA,) or not strategy.sum_type:
            yield f"differential privacy clips one delta per silo; {strategy.name} sends {', '.join(strategy.up)}"
        if privacy.robust:
            yield "differential privacy does not compose with robust aggregation: the noise is sized for a sum"
        if spec.policy.late == pb.LATE_POLICY_FOLD:
            yield "differential privacy does not compose with late fold-in: a silo could count twice in a round"
    elif privacy.max_epsilon:
        yield "privacy.max_epsilon needs differential privacy (privacy.dp)"
    if privacy.robust:
        if not strategy.sum_type:
            yield f"robust aggregation replaces a sum; {strategy.name} has none"
        if not 0 <= privacy.byzantine_share < 0.5:
            yield f"privacy.byzantine_share must be 0 to below 0.5; got {privacy.byzantine_share}"
    if privacy.secure_aggregation:
        yield from _secure(spec, strategy)


def _budget(privacy: pb.PrivacyPolicy) -> Iterator[str]:
    if not privacy.max_epsilon or not MIN_NOISE <= privacy.noise_multiplier <= MAX_NOISE or not 0 <= privacy.delta < 1:
        return
    first = epsilon_after(1, privacy.noise_multiplier, privacy.delta or DEFAULT_DELTA)
    if first > privacy.max_epsilon:
        yield f"privacy.max_epsilon is {privacy.max_epsilon:g}, and one round costs {first:.3g}: add noise, or raise it"


def _secure(spec: pb.RunSpec, strategy: Strategy) -> Iterator[str]:
    privacy, policy = spec.privacy, spec.policy
    hides = "secure aggregation hides the updates of single silos from the server"
    if not strategy.sum_type:
        yield f"{hides}; {strategy.name} must see them"
    if privacy.robust:
        yield f"{hides}; robust aggregation must see them"
    if privacy.dp == pb.DP_MODE_SERVER:
        yield f"{hides}; it cannot clip them: use DP_MODE_SILO"
    if policy.late == pb.LATE_POLICY_FOLD:
        yield "secure aggregation does not compose with late fold-in: masks cancel within one round only"
    if policy.modality_quorum:
        yield "secure aggregation needs the same tensors from every silo; modality_quorum is for silos that differ"
    if policy.min_silos < MIN_MASKED_SILOS:
        yield (
            f"secure aggregation needs policy.min_silos of at least {MIN_MASKED_SILOS}: "
            "of two, each knows the other's update"
        )
    if not (privacy.dp or spec.data.max_update_norm):
        yield "secure aggregation needs a bound on updates for its fixed-point numbers: set data.max_update_norm"
    if privacy.threshold and not policy.min_silos // 2 < privacy.threshold <= policy.min_silos:
        yield f"privacy.threshold must be more than half of min_silos ({policy.min_silos}) and at most all"
    if privacy.fraction_bits and not 8 <= privacy.fraction_bits <= 40:
        yield f"privacy.fraction_bits must be 8 to 40; got {privacy.fraction_bits}"


def _probe(spec: pb.RunSpec, strategy: Strategy, model: Specs) -> Iterator[str]:
    """Problems of the strategy with two sample silos of different size."""
    silos = tuple(SiloInfo(f"silo-{i}", n) for i, n in enumerate((10, 30)))
    state = {f"model/{name}": tensor for name, tensor in model.items()}
    try:
        started = {name: start.spec for name, start in strategy.start(model, silos).items()}
        state |= started
        uploads = {silo.id: strategy.upload(silo, state) for silo in silos}
    except UsageError as error:
        yield str(error)
        return
    if not all(uploads.values()):
        yield f"with this model, {strategy.name} has silos send nothing"
        return
    if spec.privacy.secure_aggregation and strategy.sum_type and started:
        groups = ", ".join(sorted({split_name(name)[0] for name in started}))
        yield (
            f"secure aggregation clips updates at the silos, where nobody sees it; {strategy.name} keeps corrections "
            f"({groups}), and those of the silos would no longer match the server's: use a strategy without"
        )
    modal = [strategy.upload(SiloInfo("silo", 1, modality), state) for modality in ("", "s1", "s2")]
    if any(set(sent) != set(modal[0]) for sent in modal):
        if spec.privacy.secure_aggregation:
            yield f"secure aggregation needs equal tensors from every silo; those of {strategy.name} depend on modality"
        if spec.privacy.dp == pb.DP_MODE_SILO:
            yield (
                f"DP_MODE_SILO adds up the noise of a quorum of silos; what they send with {strategy.name} depends on "
                "modality, and what fewer send would have less: use DP_MODE_SERVER"
            )
    if strategy.sum_type and (spec.privacy.dp or spec.privacy.robust):
        updates = tuple(UpdateInfo(s.id, s.examples, 1, frozenset(uploads[s.id])) for s in silos)
        yield from _bounds(spec.privacy, strategy, RoundInfo(0, silos, updates), state)


def _bounds(privacy: pb.PrivacyPolicy, strategy: Strategy, info: RoundInfo, state: Specs) -> Iterator[str]:
    """Problems with the bound of clipping, noise and robust centres on what one silo changes."""
    option = "differential privacy" if privacy.dp else "robust aggregation"
    if strategy.required_scalars:  # they are not clipped
        yield f"{option} bounds what one silo changes; with {strategy.name} a number that it reports changes the step"
        return
    if not privacy.dp:
        return
    outputs = strategy.reduction(info, state, NoSource()).outputs
    if any(len(set(add.shares.values())) > 1 for output in outputs for add in output.add):
        yield "differential privacy bounds what one silo changes: set the strategy's option weighting=uniform"
    others = sorted({split_name(name)[0] for update in info.updates for name in update.names} - {DELTA})
    if others:
        yield f"differential privacy clips deltas; it would spoil the values that {strategy.name} sends as {others}"


class NoSource:
    """Source for strategies that read no elements; every read is an error."""

    def update(self, silo: str, name: str, start: int, stop: int) -> Array:
        raise UsageError("this needs a strategy of sums only; this one reads updates")

    def state(self, name: str, start: int, stop: int) -> Array:
        raise UsageError("this needs a strategy of sums only; this one reads the state")
