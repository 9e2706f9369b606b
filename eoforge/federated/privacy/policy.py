"""Privacy policy of a run: the combiner of a round, and the epsilon that rounds spend."""

from __future__ import annotations

from functools import partial
from typing import Any

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import DataRefused
from eoforge.federated.privacy import secagg
from eoforge.federated.privacy.dp import NoisySum, epsilon_after
from eoforge.federated.privacy.silo_masks import update_bound
from eoforge.federated.reduce import Combiner, StoredSource, weighted_sum
from eoforge.federated.robust import CentreCombiner, SelectedSum, median, multi_krum, trimmed_mean
from eoforge.federated.run.rounds.outliers import norm_ratio
from eoforge.federated.run.rounds.sealing import survivors_needed
from eoforge.federated.run.spec import DEFAULT_DELTA, DEFAULT_FRACTION_BITS
from eoforge.federated.store.messages import from_bytes
from eoforge.federated.store.run_files import RunFiles


def needs_norms(spec: pb.RunSpec) -> bool:
    """Whether the run needs the norms of updates."""
    return bool(spec.data.max_update_norm or norm_ratio(spec)) or spec.privacy.dp == pb.DP_MODE_SERVER


def epsilon(spec: pb.RunSpec, rounds: int) -> float:
    """Epsilon spent by ``rounds`` rounds; 0 without differential privacy."""
    if not spec.privacy.dp or not rounds:
        return 0.0
    return epsilon_after(rounds, spec.privacy.noise_multiplier, spec.privacy.delta or DEFAULT_DELTA)


def exhausted(run: pb.Run) -> bool:
    """Whether another round would exceed the run's privacy budget."""
    bound = run.spec.privacy.max_epsilon
    return bool(bound) and epsilon(run.spec, len(run.history) + 1) > bound


def combiner(run: pb.Run, files: RunFiles) -> Combiner:
    """Combiner of the sealed round."""
    privacy = run.spec.privacy
    if privacy.dp == pb.DP_MODE_SERVER:
        norms = {a.silo: a.norm for a in run.round.accepted if a.silo in run.round.sealed}
        return NoisySum(files.secret(), run.round.number, privacy.noise_multiplier, privacy.clip_norm, norms)
    if privacy.robust == pb.ROBUST_MEDIAN:
        return CentreCombiner(median)
    if privacy.robust == pb.ROBUST_TRIMMED_MEAN:
        return CentreCombiner(partial(trimmed_mean, share=privacy.byzantine_share))
    if privacy.robust == pb.ROBUST_MULTI_KRUM:
        return _krum(run, files)
    if privacy.secure_aggregation:
        return _unmasking(run, files)
    return weighted_sum


def _unmasking(run: pb.Run, files: RunFiles) -> Combiner:
    """Combiner that removes the masks by the shares that survivors revealed.

    Raises:
        DataRefused: Shares are too few or false.
    """
    round_, keys = run.round, run.round.mask_keys
    needed = survivors_needed(run)
    holders = {silo: number for number, silo in enumerate(sorted(keys), 1)}
    revealed: dict[str, dict[int, bytes]] = {}
    for silo in sorted(round_.unmasked):
        stored = files.get(round_.number, f"_unmask/{silo}")
        for given in from_bytes(stored, pb.UnmaskAnswer, f"the shares that {silo} revealed").shares:
            revealed.setdefault(given.owner, {})[holders[silo]] = given.share
    masks = []
    for owner in sorted(round_.selected):
        secret = secagg.combine_shares(revealed.get(owner, {}), needed)
        if owner in round_.sealed:
            masks.append(secagg.Mask(secret, +1))
            continue
        if secagg.public_key(secret) != keys[owner].mask_key:
            raise DataRefused(f"the revealed key of {owner} is not the one it advertised; a silo sent a false share")
        for survivor in sorted(round_.sealed):
            seed = secagg.pair_seed(secret, keys[survivor].mask_key, run.run_id, round_.number)
            masks.append(secagg.Mask(seed, 1 if survivor < owner else -1))
    bits = run.spec.privacy.fraction_bits or DEFAULT_FRACTION_BITS
    return secagg.MaskedSum(masks, bits, update_bound(run.spec.privacy, run.spec.data))


def _krum(run: pb.Run, files: RunFiles) -> Combiner:
    updates: dict[str, Any] = {
        a.silo: files.update(a.round, a.silo).open(a.digest) for a in run.round.accepted if a.silo in run.round.sealed
    }
    common = set.intersection(*(set(file.specs) for file in updates.values()))
    sizes = {name: file.specs[name].size for file in updates.values() for name in common}
    source = StoredSource(updates, {})
    return SelectedSum(multi_krum(list(run.round.sealed), sizes, source, run.spec.privacy.byzantine_share))
