"""Settings of all objectives, and the objective of a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from eoforge.errors import UsageError
from eoforge.losses import robust
from eoforge.losses.robust import Target
from eoforge.methods.noise_robust.collaborative import CoTeaching, JoCoR, Rcml
from eoforge.methods.noise_robust.generative import Grid, RsIrlSvae
from eoforge.methods.noise_robust.objective import EarlyLearning, Objective, SelfAdaptive, Simple
from eoforge.methods.noise_robust.selection import Importance, Unit
from eoforge.nn.generative import GenerativeBranch

GRID, SVAE = "grid", "rs_irl_svae"
SIMPLE = ("plain", "label_smoothing", "focal", "gce", "sce")
REMEMBERING = ("elr", "sat")
COLLABORATIVE = ("co_teaching", "jocor", "rcml")
OBJECTIVES = (*SIMPLE, *REMEMBERING, *COLLABORATIVE, GRID, SVAE)


@dataclass(frozen=True)
class NoiseSettings:
    """Settings of the objectives; each reads its own.

    Attributes:
        rate: Share of wrong samples that GRID (lambda) and the collaborative objectives expect, in 0..1.
        adaptive: Whether GRID estimates its rate after every epoch instead.
        start_epochs: First epochs in which GRID and RS-IRL-SVAE take every label as right.
        latent: Length of z.
        unit: Whether GRID and RS-IRL-SVAE judge samples, or each label of a scene and each pixel of a map.
        joint: Whether GRID suspects labels by the sum of both losses, not by their gap.
        importance: How RS-IRL-SVAE turns two losses into a weight.
        kappa: Exponent of the importances "power" and "joint_power".
        divergence_weight: Weight of KL in the bound of GRID and RS-IRL-SVAE.
        whole_bound: Whether RS-IRL-SVAE compares the whole bound, or the generative head's loss alone.
        smoothing: Of label smoothing.
        focal_gamma: Exponent of the focal loss.
        gce_q: Exponent of the generalised cross entropy.
        sce_alpha: Weight of cross entropy in the symmetric one.
        sce_beta: Weight of the reverse cross entropy.
        elr_weight: Weight of ELR's regulariser.
        elr_momentum: Of ELR's moving average.
        sat_momentum: Of SAT's moving labels.
        sat_start_epochs: Epochs before SAT moves its labels.
        jocor_weight: Share of the divergence in JoCoR's loss.
        ramp_epochs: Epochs until the collaborative objectives leave out their full share.
    """

    rate: float = 0.2
    adaptive: bool = False
    start_epochs: int = 0
    latent: int = 128
    unit: Unit = "sample"
    joint: bool = False
    importance: Importance = "gap"
    kappa: float = 2.0
    divergence_weight: float = 1.0
    whole_bound: bool = False
    smoothing: float = 0.1
    focal_gamma: float = 2.0
    gce_q: float = 0.7
    sce_alpha: float = 0.1
    sce_beta: float = 1.0
    elr_weight: float = 3.0
    elr_momentum: float = 0.7
    sat_momentum: float = 0.9
    sat_start_epochs: int = 5
    jocor_weight: float = 0.5
    ramp_epochs: int = 5

    def __post_init__(self) -> None:
        """Checks of ranges.

        Raises:
            UsageError: A value is out of range.
        """
        for name in ("rate", "smoothing", "elr_momentum", "sat_momentum", "jocor_weight"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 0 and less than 1; got {getattr(self, name)}")
        for name in ("latent", "kappa", "gce_q"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} must be greater than 0; got {getattr(self, name)}")
        for name in (
            "start_epochs",
            "divergence_weight",
            "focal_gamma",
            "sce_alpha",
            "sce_beta",
            "elr_weight",
            "sat_start_epochs",
            "ramp_epochs",
        ):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} must not be negative; got {getattr(self, name)}")


def build_objective(
    name: str,
    settings: NoiseSettings,
    target: Target,
    *,
    features: int,
    outputs: int,
    samples: int,
    non_negative: bool = False,
    fit: Callable[[Tensor], Tensor] | None = None,
) -> Objective:
    """The objective of a name.

    Args:
        name: One of ``OBJECTIVES``.
        settings: Its settings.
        target: Kind of the labels; ``pixels`` expects features that are maps.
        features: Channels D of the features.
        outputs: Classes, or numbers of a vector.
        samples: Size of the training split.
        non_negative: Whether the features are outputs of a ReLU.
        fit: For pixels: logits at the resolution of the features to that of the labels, as the task head does.

    Raises:
        UsageError: The name is unknown, or the objective does not take this kind of labels.
    """
    s = settings
    if name in REMEMBERING and target not in ("multi", "single"):
        raise UsageError(f"{name} keeps a prediction per sample and so takes labels of scenes; got {target}")
    if name in ("gce", "sce", "focal", "label_smoothing", "jocor", "rcml") and target == "vector":
        raise UsageError(f"{name} is a loss of class probabilities; a vector of numbers has none")
    if name in SIMPLE:
        losses = {
            "plain": partial(robust.task_loss, target),
            "label_smoothing": partial(robust.smoothed, target, smoothing=s.smoothing),
            "focal": partial(robust.focal, target, gamma=s.focal_gamma),
            "gce": partial(robust.generalised_cross_entropy, target, q=s.gce_q),
            "sce": partial(robust.symmetric_cross_entropy, target, alpha=s.sce_alpha, beta=s.sce_beta),
        }
        return Simple(losses[name])
    if name == "elr":
        return EarlyLearning(target, samples, outputs, s.elr_weight, s.elr_momentum)
    if name == "sat":
        return SelfAdaptive(target, samples, outputs, s.sat_momentum, s.sat_start_epochs)
    if name == "co_teaching":
        return CoTeaching(target, s.rate, s.ramp_epochs)
    if name == "jocor":
        return JoCoR(target, s.rate, s.ramp_epochs, s.jocor_weight)
    if name == "rcml":
        return Rcml(target, s.rate, s.ramp_epochs)
    if name not in (GRID, SVAE):
        raise UsageError(f"objective must be one of {', '.join(OBJECTIVES)}; got {name!r}")
    if s.unit == "label" and target not in ("multi", "pixels"):
        raise UsageError(f"unit=label needs patches with several labels; those of {target} targets have one")
    if s.unit == "label" and name == GRID and s.adaptive and target == "pixels":
        raise UsageError("the rate of single pixels cannot be estimated; give rate, or unit=sample")
    if s.unit == "label" and s.whole_bound:
        raise UsageError("the whole bound belongs to a sample; whole_bound=true needs unit=sample")
    spatial = target == "pixels"
    branch = GenerativeBranch(features, outputs, s.latent, spatial=spatial, non_negative=non_negative, fit=fit)
    if name == GRID:
        return Grid(
            branch,
            target,
            samples,
            None if s.adaptive else s.rate,
            s.start_epochs,
            unit=s.unit,
            divergence_weight=s.divergence_weight,
            joint=s.joint,
        )
    return RsIrlSvae(
        branch,
        target,
        samples,
        s.importance,
        s.kappa,
        s.divergence_weight,
        whole_bound=s.whole_bound,
        start_epochs=s.start_epochs,
        unit=s.unit,
    )
