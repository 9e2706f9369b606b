"""Import of checkpoints of the released code: translation of names and shapes of weights.

*Confirmed* by reading the released modules (jakhac/CSMAE): every name and shape below, the order of blocks, and that
``decoder_s1_to_s2`` predicts Sentinel-2 from either sensor. *Inferred*: that published files are what Lightning writes
(``state_dict`` at the top, ``backbone.`` in front of the encoder) or the encoder alone; no such file was available.

A checkpoint has no normalisation. Its bands are in the order of ``Config.paper()``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from eoforge.errors import DataRefused, NotFound
from eoforge.methods.csmae.config import Settings
from eoforge.methods.csmae.model import Csmae, position_embedding

MAX_BYTES = 16 << 30
_DECODERS = {"decoder": "common", "decoder_s1_to_s2": "s2", "decoder_s2_to_s1": "s1"}
_PARTS = {"decoder_embed": "embed", "decoder_blocks": "trunk", "decoder_norm": "norm"}
_PREDICTORS = {"decoder_pred_s1_to_s2": "s2", "decoder_pred_s2_to_s1": "s1"}
POSITION_BOUND = 1e-5


def load_released(network: Csmae, path: str) -> bool:
    """Loads a released checkpoint into ``network``.

    Returns:
        Whether the checkpoint has decoders; without them those of ``network`` are unchanged.

    Raises:
        NotFound: The file does not exist.
        DataRefused: It is too large or damaged, has more than tensors and plain values, or has other settings.
    """
    file = Path(path)
    if not file.is_file():
        raise NotFound(f"no checkpoint {path}")
    if file.stat().st_size > MAX_BYTES:
        raise DataRefused(f"{path} has {file.stat().st_size} bytes; at most {MAX_BYTES} are read")
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has a class for each way a file can be wrong
        raise DataRefused(
            f"{path} cannot be read as plain tensors: {error}. If you trust the file, load it with the software that "
            "wrote it and save its state_dict alone"
        ) from error
    state = saved.get("state_dict", saved) if isinstance(saved, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise DataRefused(f"expected a state_dict of tensors in {path}")
    weights = convert(state, network.settings)
    complete = any(name.startswith("decoders.") for name in weights)
    own = network.state_dict()
    expected = own if complete else {k: v for k, v in own.items() if k.startswith("encoder.")}
    wrong = sorted(
        name
        for name in weights.keys() | expected.keys()
        if name not in weights or name not in expected or weights[name].shape != expected[name].shape
    )
    if wrong:
        raise DataRefused(
            f"{path} is a checkpoint of other settings than {network.settings.variant}, {network.settings.vit}: "
            f"{len(wrong)} weights differ in name or shape, among them {', '.join(wrong[:3])}"
        )
    network.load_state_dict(weights, strict=complete)
    return complete


def convert(state: Mapping[str, Tensor], settings: Settings) -> dict[str, Tensor]:
    """Weights with the names and shapes of :class:`~eoforge.methods.csmae.model.Csmae`, from released ones.

    Raises:
        DataRefused: A name is unknown, or position embeddings are not the fixed ones.
    """
    weights: dict[str, Tensor] = {}
    widths = {"pos_embed": settings.width, "decoder_pos_embed": settings.decoder_width}
    for name, tensor in state.items():
        last = name.rpartition(".")[2]
        if last in widths:
            _require_positions(name, tensor, widths[last], settings)
        else:
            ours = _translate(name, settings)
            weights[ours] = tensor.reshape(-1) if ours.endswith("mask_token") else tensor
    return weights


def _translate(name: str, settings: Settings) -> str:
    decoder, _, rest = name.partition(".")
    if decoder in _DECODERS:
        part, _, leaf = rest.partition(".")
        prefix = f"decoders.{_DECODERS[decoder]}"
        if part == "mask_token":
            return f"{prefix}.mask_token"
        if part in _PARTS:
            return f"{prefix}.{_PARTS[part]}.{leaf}"
        target = _PREDICTORS.get(part) if decoder == "decoder" else _DECODERS[decoder]
        if target is not None and part.startswith("decoder_pred"):
            return f"{prefix}.heads.{target}.{leaf}"
        raise DataRefused(f"unknown weight {name!r}: no released checkpoint has it")
    specific, shared = settings.depths
    rules = (
        (r"patch_embed\.proj\.(\w+)", r"embed.s1.\1"),
        (r"patch_embed_s2\.proj\.(\w+)", r"embed.s2.\1"),
        (r"cls_token", "cls.s1"),
        (r"cls_token_s2", "cls.s2"),
        (r"blocks_(s[12])\.(.+)", r"specific.\1.\2"),
        (r"norm_(s[12])\.(\w+)", rf"specific.\1.{specific}.\2"),
        (r"blocks\.(.+)", r"shared.\1"),
        (r"norm\.(\w+)", rf"shared.{shared}.\1"),
        (r"fc_norm\.(\w+)", r"feature_norm.\1"),
    )
    for pattern, ours in rules:
        if match := re.fullmatch(pattern, name.removeprefix("backbone.")):
            return "encoder." + match.expand(ours)
    raise DataRefused(f"unknown weight {name!r}: no released checkpoint has it")


def _require_positions(name: str, tensor: Tensor, width: int, settings: Settings) -> None:
    expected = position_embedding(width, settings.size // settings.patch)
    if tensor.shape != (1, *expected.shape) or (tensor[0] - expected).abs().max() > POSITION_BOUND:
        raise DataRefused(
            f"{name} {list(tensor.shape)} is not the fixed position embedding of {settings.tokens} patches and "
            f"width {width}"
        )
