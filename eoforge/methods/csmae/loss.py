"""The objective of CSMAE, computed by a plain path and by a sharing path.

Both compute, for sensors a and b, prediction p(b<-a) and the 0/1 mask M of the patches in the loss::

    MSE(p, P) = sum_t M_t mean_c (p_tc - P_tc)^2 / sum_t M_t        over batch and patches
    UMR = MSE(p(1<-1)) + MSE(p(2<-2))      CMR = MSE(p(2<-1)) + MSE(p(1<-2))
    MIM = NT-Xent(f1, f2; t)               MDE = -mean_i log(1 + exp cos(f1_i, f2_i))
    L = w_umr UMR + w_cmr CMR + w_mim MIM + w_mde MDE

*Confirmed* (released code), except the sign and call of MDE, which fails there (*ours*: the intended term).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from eoforge.data.bands import MODALITIES
from eoforge.losses.contrastive import modal_discrepancy, nt_xent
from eoforge.methods.csmae.config import Settings
from eoforge.methods.csmae.masking import DecodeLayout, layout
from eoforge.methods.csmae.model import Csmae
from eoforge.methods.csmae.pixels import Pixels
from eoforge.nn.distributed import gather_rows
from kernels.masked_mse import masked_mse
from kernels.nt_xent import nt_xent_reference
from kernels.random_mask import Mask

NORM_PIX_EPS = 1e-6

Decodes = dict[tuple[str, str], Tensor]
"""(source, target) -> mean square error of the decode."""
KeyT = TypeVar("KeyT")


def objective(network: Csmae, images: Mapping[str, Tensor | Pixels], masks: dict[str, Mask]) -> dict[str, Tensor]:
    """All terms of the loss by name; ``loss`` is the objective. Terms of weight 0 are not computed.

    Args:
        network: Network with its settings.
        images: Sensor -> images of the same patches in the same order: float32 ``[B, C, S, S]``, or native grids.
        masks: Sensor -> mask, from :func:`~eoforge.methods.csmae.masking.draw_masks`.
    """
    settings = network.settings
    path = _sharing if settings.sharing else _plain
    pixels = {modality: Pixels.of(image) for modality, image in images.items()}
    features, errors = path(network, pixels, masks, _wanted(settings))
    terms: dict[str, Tensor] = {}
    if settings.umr_weight > 0:
        terms["umr"] = errors["s1", "s1"] + errors["s2", "s2"]
    if settings.cmr_weight > 0:
        terms["cmr"] = errors["s1", "s2"] + errors["s2", "s1"]
    if settings.mim_weight + settings.mde_weight > 0:
        first, second = (gather_rows(features[m].float()) for m in MODALITIES)
        if settings.mim_weight > 0:
            terms["mim"] = (
                nt_xent(first, second, settings.temperature)
                if settings.sharing
                else nt_xent_reference(torch.cat([first, second]), settings.temperature)
            )
        if settings.mde_weight > 0:
            terms["mde"] = -modal_discrepancy(first, second)
    total = sum(getattr(settings, f"{name}_weight") * value for name, value in terms.items())
    assert isinstance(total, Tensor)
    return {"loss": total, **terms}


def _wanted(settings: Settings) -> list[tuple[str, str]]:
    pairs = [(source, target) for target in MODALITIES for source in MODALITIES]
    return [
        (source, target)
        for source, target in pairs
        if (settings.umr_weight if source == target else settings.cmr_weight) > 0
    ]


def _plain(
    network: Csmae, pixels: dict[str, Pixels], masks: dict[str, Mask], wanted: list[tuple[str, str]]
) -> tuple[dict[str, Tensor], Decodes]:
    """Plain path, as the formulas read: embed all patches, decode every pair separately, predict every patch."""
    encoder, settings = network.encoder, network.settings
    images = {modality: p.dense(settings.size) for modality, p in pixels.items()}
    tokens = {}
    for modality, image in images.items():
        embedded = encoder.embed_all(image, modality)
        index = masks[modality].visible.long()[..., None].expand(-1, -1, settings.width)
        tokens[modality] = encoder.shared(encoder.specific_stage(embedded.gather(1, index), modality))
    errors = {}
    for source, target in wanted:
        positions = layout(masks, source, target, settings)
        predicted_BLP = network.decoder(target)(tokens[source], positions, target)
        errors[source, target] = plain_mse(predicted_BLP, images[target], positions, settings)
    return {m: encoder.pool(t) for m, t in tokens.items()}, errors


def plain_mse(predicted_BLP: Tensor, image_BCSS: Tensor, positions: DecodeLayout, settings: Settings) -> Tensor:
    """Masked mean square error of predicted patches, values of a patch in the order (row, column, band)."""
    batch, channels, size, _ = image_BCSS.shape
    patch, across = settings.patch, size // settings.patch
    cut = image_BCSS.reshape(batch, channels, across, patch, across, patch)
    target_BLP = cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, across**2, -1)
    if settings.norm_pix:
        centred = target_BLP - target_BLP.mean(dim=-1, keepdim=True)
        target_BLP = centred / (target_BLP.var(dim=-1, keepdim=True) + NORM_PIX_EPS).sqrt()
    counts_BL = torch.zeros_like(target_BLP[..., 0]).scatter(1, positions.places.long(), 1.0)
    error_BL = (predicted_BLP.float() - target_BLP).square().mean(dim=-1)
    return (error_BL * counts_BL).sum() / counts_BL.sum()


def _sharing(
    network: Csmae, pixels: dict[str, Pixels], masks: dict[str, Mask], wanted: list[tuple[str, str]]
) -> tuple[dict[str, Tensor], Decodes]:
    """Sharing path: equal to the plain path, without the computations that no loss reads.

    Only visible patches are embedded. The shared stage runs once for both sensors. Decodes of one trunk with the same
    source and layout share its pass (UMR and CMR under a common decoder and disjoint reconstruction), and all passes of
    a trunk are one call. Heads predict only patches in the loss, and targets are read in place.
    """
    encoder, settings = network.encoder, network.settings
    staged = {}
    for modality, images in pixels.items():
        visible = encoder.embed_visible(images, modality, masks[modality].visible)
        staged[modality] = encoder.specific_stage(visible, modality)
    tokens = _in_one_call(encoder.shared, staged)
    errors: Decodes = {}
    for decoder in {id(d): d for d in map(network.decoder, MODALITIES)}.values():
        pairs = [(source, target) for source, target in wanted if target in decoder.heads]
        layouts = {pair: layout(masks, *pair, settings) for pair in pairs}
        embedded = {source: decoder.embed(tokens[source]) for source in dict.fromkeys(s for s, _ in pairs)}
        passes = {(source, id(layouts[source, target].ranks)): (source, target) for source, target in pairs}
        laid = {key: decoder.lay_out(embedded[pair[0]], layouts[pair].ranks) for key, pair in passes.items()}
        hidden = _in_one_call(decoder.trunk, laid)
        for source, target in pairs:
            positions, images = layouts[source, target], pixels[target]
            predicted_BMP = decoder.predict_places(hidden[source, id(positions.ranks)], positions.places, target)
            errors[source, target] = masked_mse(
                predicted_BMP,
                images.sources,
                positions.places,
                images.table,
                size=settings.size,
                patch=settings.patch,
                flip=images.flip,
                pixel_major=True,
                norm_pix=settings.norm_pix,
            )
    return {m: encoder.pool(t) for m, t in tokens.items()}, errors


def _in_one_call(stage: nn.Module, inputs: dict[KeyT, Tensor]) -> dict[KeyT, Tensor]:
    """Outputs of ``stage`` for inputs ``[B, T, D]``, by one call if their shapes agree."""
    if len({x.shape for x in inputs.values()}) > 1:
        return {key: stage(x) for key, x in inputs.items()}
    outputs = stage(torch.cat(list(inputs.values()))).chunk(len(inputs))
    return dict(zip(inputs, outputs, strict=True))
