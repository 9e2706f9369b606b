"""Masks of both sensors, positions of tokens in the decoder, and patches in the loss.

With a the source and b the target of a decode (*confirmed*, released code):

========================  =====================  =====================
case                      positions of tokens    patches in the loss
========================  =====================  =====================
a = b                     their own              masked in a
reconstruction disjoint   their own              masked in a
reconstruction identical  those visible in b     masked in b
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


class DecodeLayout(NamedTuple):
    """Layout of one decode.

    Attributes:
        ranks: uint8 ``[B, L]``: position t has the source token ``ranks[b, t]``, or the mask token if there is none.
        places: uint8 ``[B, M]``: positions of the patches that are predicted and compared.
    """

    ranks: Tensor
    places: Tensor


def draw_masks(state: Tensor, batch: int, settings: Settings) -> dict[str, Mask]:
    """Masks of both sensors, as a function of ``state`` (:func:`kernels.random_mask.mask_state`) and ``settings``.

    Args:
        state: int64 ``[2]``, (seed, step), on the device of the images.
        batch: Samples B.
        settings: Masking strategy and ratio.
    """
    keep = settings.keep
    mode = _MODES[settings.masking]
    first, second = random_mask(state, batch, settings.tokens, keep["s1"], mode=mode, keep_b=keep["s2"])
    return {"s1": first, "s2": second}


def layout(masks: dict[str, Mask], source: str, target: str, settings: Settings) -> DecodeLayout:
    """Layout of the tokens of ``source`` that predict ``target``."""
    own = masks[source]
    if source == target or settings.reconstruction == "disjoint":
        return DecodeLayout(own.ranks, own.masked)
    if settings.masking == "identical":
        return DecodeLayout(settings.tokens - 1 - own.ranks, own.visible)
    return DecodeLayout(masks[target].ranks, masks[target].masked)
