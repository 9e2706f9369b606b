"""Which patches each sensor shows, where the decoder lays their tokens, and where the loss looks.

With a the source and b the target of a decode (*confirmed*, released code):

========================  =====================  =====================
case                      tokens of a are laid   loss positions
========================  =====================  =====================
a = b                     where they were        masked in a
reconstruction disjoint   where they were        masked in a
reconstruction identical  at b's visible places  masked in b
identical, masks too      in reversed order      visible in a
========================  =====================  =====================
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

from eoforge.methods.csmae.config import Settings
from kernels.random_mask import Mask, random_mask

_MODES: dict[str, Literal["identical", "disjoint", "independent"]] = {
    "identical": "identical",
    "disjoint": "disjoint",
    "random": "independent",
}


class Layout(NamedTuple):
    """Of one decode.

    Attributes:
        ranks: uint8 ``[B, L]``: place t receives source token ``ranks[b, t]``, or the mask token if there is none.
        places: uint8 ``[B, M]``: the places that are predicted and compared.
    """

    ranks: Tensor
    places: Tensor


def draw_masks(state: Tensor, batch: int, settings: Settings) -> dict[str, Mask]:
    """Masks of both sensors, a function of ``state`` (:func:`kernels.random_mask.mask_state`) and ``settings``.

    Args:
        state: int64 ``[2]``, (seed, step), on the device of the images.
        batch: Samples B.
        settings: Masking strategy and ratio.
    """
    keep = settings.keep
    mode = _MODES[settings.masking]
    first, second = random_mask(state, batch, settings.tokens, keep["s1"], mode=mode, keep_b=keep["s2"])
    return {"s1": first, "s2": second}


def layout(masks: dict[str, Mask], source: str, target: str, settings: Settings) -> Layout:
    """Where the tokens of ``source`` go to predict ``target``, and which places count."""
    shown = masks[source]
    if source == target or settings.reconstruction == "disjoint":
        return Layout(shown.ranks, shown.masked)
    if settings.masking == "identical":
        return Layout(settings.tokens - 1 - shown.ranks, shown.visible)
    return Layout(masks[target].ranks, masks[target].masked)
