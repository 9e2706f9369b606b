"""The networks of CSMAE.

Shape legend: B pairs, C bands, S pixels, L patches of an image, V visible ones, M predicted ones, T tokens, D encoder
width, E decoder width, P = C * patch^2 values of a patch::

    s1 [B,C1,S,S] -> embed_s1 -> +pos, keep V -> [cls_s1;] -> specific_s1 \\
                                                                           -> shared -> tokens [B,1+V,D] per sensor
    s2 [B,C2,S,S] -> embed_s2 -> +pos, keep V -> [cls_s2;] -> specific_s2 /      |
                (specific stages are empty in CE variants)                       +-> mean -> norm -> feature [B,D]
                                                                                 v
    decoder (one, or in SD variants one per target):
        embed [B,1+V,E] -> L positions, mask token elsewhere, +pos -> blocks -> norm -> head_s1 [B,M,P1]
                                                                                               -> head_s2 [B,M,P2]

Encoders, order of operations and initial weights are *confirmed* (released code). At inference every patch is visible,
without masks or shuffling.
"""

from __future__ import annotations

from functools import partial
from typing import cast

import numpy as np
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from eoforge.data.bands import MODALITIES
from eoforge.methods.csmae.config import VITS, Settings
from eoforge.methods.csmae.masking import DecodeLayout
from eoforge.methods.csmae.pixels import Pixels
from kernels.patch_gather import patch_gather
from kernels.unshuffle import unshuffle

MLP_RATIO = 4.0
INIT_STD = 0.02


class Encoder(nn.Module):
    """Encoder of both sensors, from images to tokens and features."""

    pos: Tensor

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        width, heads, _ = VITS[settings.vit]
        specific, shared = settings.depths
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.feature, self.patch, self.size = settings.feature, settings.patch, settings.size
        self.embed = nn.ModuleDict(
            {
                m: nn.Conv2d(len(bands), width, settings.patch, settings.patch)
                for m, bands in settings.sensor_bands.items()
            }
        )
        self.cls = nn.ParameterDict({m: nn.Parameter(torch.zeros(1, 1, width)) for m in MODALITIES})
        self.register_buffer("pos", position_embedding(width, settings.size // settings.patch), persistent=False)
        self.specific = nn.ModuleDict(
            {m: _stage(width, heads, specific, norm) if specific else nn.Identity() for m in MODALITIES}
        )
        self.shared = _stage(width, heads, shared, norm)
        # The class token is normed already; the mean of normed tokens has another scale.
        self.feature_norm = norm(width) if settings.feature == "gap" else nn.Identity()
        for modality in MODALITIES:
            embed = self.embed[modality]
            assert isinstance(embed, nn.Conv2d)
            nn.init.xavier_uniform_(embed.weight.view(width, -1))
            nn.init.normal_(self.cls[modality], std=INIT_STD)
        self.apply(_initialise)
        if not settings.mim_weight + settings.mde_weight > 0:
            self.feature_norm.requires_grad_(False)  # no loss reaches it then, and DDP wants every gradient

    def embed_all(self, image_BCSS: Tensor, modality: str) -> Tensor:
        """Tokens of all patches with position embeddings, ``[B, L, D]``."""
        tokens_BDSS: Tensor = self.embed[modality](image_BCSS)
        return tokens_BDSS.flatten(2).transpose(1, 2) + self.pos[1:]

    def embed_visible(self, images: Tensor | Pixels, modality: str, visible_BV: Tensor) -> Tensor:
        """Tokens of the patches ``visible_BV`` (uint8) with position embeddings, ``[B, V, D]``."""
        embed = self.embed[modality]
        assert isinstance(embed, nn.Conv2d)
        pixels, device = Pixels.of(images), visible_BV.device.type
        # Under autocast the product casts its operand; gathering in that dtype writes half as many bytes, once.
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        patches_BVP = patch_gather(
            pixels.sources, visible_BV, pixels.table, size=self.size, patch=self.patch, flip=pixels.flip, dtype=dtype
        )
        tokens_BVD = functional.linear(patches_BVP, embed.weight.flatten(1), embed.bias)
        return tokens_BVD + self.pos[1:][visible_BV.long()]

    def specific_stage(self, tokens_BVD: Tensor, modality: str) -> Tensor:
        """Output of the sensor-specific blocks for class token and tokens, ``[B, 1 + V, D]``."""
        cls = (self.cls[modality] + self.pos[:1]).expand(tokens_BVD.shape[0], -1, -1)
        staged: Tensor = self.specific[modality](torch.cat([cls, tokens_BVD], dim=1))
        return staged

    def pool(self, tokens_BTD: Tensor) -> Tensor:
        """The image's feature ``[B, D]`` from encoded tokens ``[B, 1 + V, D]``."""
        pooled = tokens_BTD[:, 0] if self.feature == "cls" else tokens_BTD[:, 1:].mean(dim=1)
        feature_BD: Tensor = self.feature_norm(pooled)
        return feature_BD

    def features(self, image_BCSS: Tensor, modality: str) -> Tensor:
        """Features ``[B, D]`` of whole images of one sensor."""
        return self.pool(self.shared(self.specific_stage(self.embed_all(image_BCSS, modality), modality)))


class Decoder(nn.Module):
    """A trunk with one prediction head per target sensor."""

    pos: Tensor

    def __init__(self, settings: Settings, targets: tuple[str, ...]) -> None:
        super().__init__()
        width, pixels = settings.decoder_width, settings.patch**2
        self.embed = nn.Linear(settings.width, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.register_buffer("pos", position_embedding(width, settings.size // settings.patch), persistent=False)
        norm = partial(nn.LayerNorm, eps=1e-5)
        self.trunk = _blocks(width, settings.decoder_heads, settings.decoder_depth, norm)
        self.norm = norm(width)
        self.heads = nn.ModuleDict({t: nn.Linear(width, pixels * len(settings.sensor_bands[t])) for t in targets})
        nn.init.normal_(self.mask_token, std=INIT_STD)
        self.apply(_initialise)

    def lay_out(self, embedded_BTE: Tensor, ranks_BL: Tensor) -> Tensor:
        """Source tokens ``[B, 1 + V, E]`` at their positions, mask tokens elsewhere: ``[B, 1 + L, E]``."""
        return unshuffle(embedded_BTE, ranks_BL, self.mask_token, self.pos, prefix=1)

    def predict_places(self, hidden_BTE: Tensor, places_BM: Tensor, target: str) -> Tensor:
        """Predicted patches ``[B, M, P]`` at the positions (uint8), from the trunk's output ``[B, 1 + L, E]``."""
        index = (places_BM.long() + 1)[..., None].expand(-1, -1, hidden_BTE.shape[2])
        predicted: Tensor = self.heads[target](self.norm(hidden_BTE.gather(1, index)))
        return predicted

    def forward(self, tokens_BTD: Tensor, layout: DecodeLayout, target: str) -> Tensor:
        """All predicted patches ``[B, L, P]`` of ``target`` from a source's tokens (plain path)."""
        x_BTE = self.embed(tokens_BTD)
        batch, places = layout.ranks.shape
        filler = self.mask_token.to(x_BTE.dtype).expand(batch, places + 1 - x_BTE.shape[1], -1)
        index = layout.ranks.long()[..., None].expand(-1, -1, x_BTE.shape[2])
        laid = torch.cat([x_BTE[:, 1:], filler], dim=1).gather(1, index)
        hidden = self.trunk(torch.cat([x_BTE[:, :1], laid], dim=1) + self.pos)
        predicted: Tensor = self.heads[target](self.norm(hidden))[:, 1:]
        return predicted


class Csmae(nn.Module):
    """Encoder and decoders of the autoencoder; ``loss.py`` has the objective."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = Encoder(settings)
        targets = tuple(MODALITIES)
        groups = {"common": targets} if settings.common_decoder else {t: (t,) for t in targets}
        self.decoders = nn.ModuleDict({name: Decoder(settings, group) for name, group in groups.items()})

    def decoder(self, target: str) -> Decoder:
        """The decoder that predicts ``target``."""
        decoder = self.decoders["common" if self.settings.common_decoder else target]
        assert isinstance(decoder, Decoder)
        return decoder


def position_embedding(width: int, across: int) -> Tensor:
    """Fixed sines and cosines of column (first half of the channels) and row: ``[1 + across^2, width]``.

    That of the class token is zero. *Confirmed* (released code, after MAE).
    """
    frequency = 1.0 / 10_000 ** (np.arange(width // 4) / (width / 4))
    angle = np.arange(across)[:, None] * frequency
    waves = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    grid = np.concatenate([np.tile(waves, (across, 1)), np.repeat(waves, across, axis=0)], axis=1)
    return torch.from_numpy(np.concatenate([np.zeros((1, width)), grid]).astype(np.float32))


def _blocks(width: int, heads: int, depth: int, norm: partial[nn.LayerNorm]) -> nn.Sequential:
    norm_layer = cast("type[nn.Module]", norm)  # timm calls it but declares a class
    return nn.Sequential(*[Block(width, heads, MLP_RATIO, qkv_bias=True, norm_layer=norm_layer) for _ in range(depth)])


def _stage(width: int, heads: int, depth: int, norm: partial[nn.LayerNorm]) -> nn.Sequential:
    return _blocks(width, heads, depth, norm).append(norm(width))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
