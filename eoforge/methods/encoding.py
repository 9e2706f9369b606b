"""The encoder of hashing methods, and the checks of a bundle when its model is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from eoforge.bundle import Bundle, require_keys
from eoforge.config import ConfigT, from_dict
from eoforge.data.bands import GROUP_OF, MODALITIES, require_bands
from eoforge.data.loading.loader import PatchBatch
from eoforge.data.loading.prepare import Prepare
from eoforge.errors import BundleError, DataRefused, UsageError
from eoforge.hashing.packing import pack_torch
from eoforge.nn.build import choose_device


class HashNetwork(Protocol):
    """A module from images of one sensor to hash logits and embeddings."""

    def encode(self, image_BCSS: Tensor, modality: str) -> tuple[Tensor, Tensor]:
        """Logits ``[B, K]`` and unit embeddings ``[B, D]``."""


class HashEncoder:
    """Codes and embeddings of patches; see :class:`eoforge.index.encoder.Encoder`.

    A patch's code does not depend on the rest of its batch, except for bits whose logit is zero within rounding.
    Arithmetic is float32 on every device.

    Args:
        network: In evaluation mode, on ``device``.
        prepare: Per modality, the transform from stored pixels to the network's input.
        bits: Code length K.
        embedding_dim: Embedding length D.
        device: Device of ``network`` and ``prepare``.
    """

    def __init__(
        self,
        network: HashNetwork,
        prepare: Mapping[str, Prepare],
        bits: int,
        embedding_dim: int,
        device: torch.device,
    ) -> None:
        self._network, self._prepare = network, dict(prepare)
        self.bits, self.embedding_dim, self.device = bits, embedding_dim, device
        self.modalities = tuple(self._prepare)

    @torch.inference_mode()
    def encode(self, batch: PatchBatch, modality: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Codes ``[B, K/8]`` and embeddings ``[B, D]``.

        Raises:
            UsageError: ``modality`` is none of ``modalities``.
            DataRefused: The batch lacks the modality's bands, or they have another shape or type.
        """
        if modality not in self._prepare:
            raise UsageError(f"this model encodes {', '.join(self.modalities)}; got modality {modality!r}")
        prepare = self._prepare[modality]
        require_rasters(batch, prepare.bands)
        logits_BK, embeddings_BD = self._network.encode(prepare(batch.to(self.device)), modality)
        return pack_torch(logits_BK).cpu().numpy(), embeddings_BD.float().cpu().numpy()


def hash_encoder(
    bundle: Bundle,
    network: nn.Module,
    bands: Mapping[str, tuple[str, ...]],
    size: int,
    facts: Mapping[str, Any],
    device: str | None,
) -> HashEncoder:
    """The encoder of a bundle whose network is a :class:`HashNetwork`.

    Args:
        bundle: Its config gives bands, normalisation and interpolation.
        network: The network with its weights.
        bands: The bands per modality that the network was built for.
        size: Side of its input, in pixels.
        facts: ``bits``, ``embedding_dim`` and ``interpolation`` that follow from the settings.
        device: Torch device; None for CUDA if available.

    Raises:
        BundleError: The config of the bundle has other bands or facts.
    """
    require_facts(bundle, facts)
    where = choose_device(device)
    prepare = {m: p.to(where) for m, p in prepares(bundle, bands_of(bundle, bands), size).items()}
    ready = cast("HashNetwork", network.to(where).eval())
    return HashEncoder(ready, prepare, facts["bits"], facts["embedding_dim"], where)


def require_rasters(batch: PatchBatch, bands: tuple[str, ...]) -> None:
    """Checks that ``batch`` has the tensors of ``bands`` on their native grids.

    Raises:
        DataRefused: A tensor is absent or has another shape or type.
    """
    for group in dict.fromkeys(GROUP_OF[band] for band in bands):
        tensor = getattr(batch, group.column)
        if tensor is None:
            raise DataRefused(
                f"bands {', '.join(group.bands)} ({group.column}) are needed; the batch does not have them"
            )
        expected = (len(batch), *group.shape)
        if tuple(tensor.shape) != expected or tensor.dtype != getattr(torch, group.dtype):
            raise DataRefused(
                f"{group.column} must be {group.dtype} {list(expected)} with channels {', '.join(group.bands)}; "
                f"got {tensor.dtype} {list(tensor.shape)}"
            )


def normalisation(bundle: Bundle, bands: tuple[str, ...]) -> tuple[list[float], list[float]]:
    """Means and standard deviations of ``bands``, in their order, from the bundle.

    Raises:
        BundleError: A band is missing, a value is not finite, or a deviation is not positive.
    """
    table: Any = bundle.config["normalisation"]
    means, deviations = [], []
    for band in bands:
        entry = table.get(band) if isinstance(table, dict) else None
        numeric = isinstance(entry, list) and len(entry) == 2 and all(type(v) in (int, float) for v in entry)
        if entry is None or not numeric or not all(map(math.isfinite, entry)) or entry[1] <= 0:
            raise BundleError(f"{bundle.uri}: normalisation of {band} must be [mean, std > 0]; got {entry!r}")
        means.append(float(entry[0]))
        deviations.append(float(entry[1]))
    return means, deviations


def bands_of(bundle: Bundle, expected: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The bundle's bands per modality, checked to be those of its network in the same order.

    Raises:
        BundleError: They differ.
    """
    stored: Any = bundle.config["bands"]
    if not isinstance(stored, dict) or {m: list(b) for m, b in expected.items()} != stored:
        named = {m: list(b) for m, b in expected.items()}
        raise BundleError(f"{bundle.uri}: its network reads bands {named}, but config.json names {stored}")
    return {m: require_bands(tuple(stored[m]), m) for m in MODALITIES if m in stored}


def prepares(bundle: Bundle, bands: Mapping[str, tuple[str, ...]], size: int) -> dict[str, Prepare]:
    """Transforms to the network's input per modality, from the bundle's normalisation and interpolation."""
    return {
        modality: Prepare(names, *normalisation(bundle, names), size=size, interpolation=bundle.config["interpolation"])
        for modality, names in bands.items()
    }


def require_method(bundle: Bundle, method: str) -> None:
    """Checks that ``bundle`` is a trained model of ``method``.

    Raises:
        BundleError: It is a bundle of another method.
    """
    require_keys(bundle)
    if bundle.config["method"] != method:
        raise BundleError(f"{bundle.uri} is a bundle of {bundle.config['method']!r}; {method!r} cannot load it")


def settings_of(bundle: Bundle, kind: type[ConfigT], method: str) -> ConfigT:
    """The settings that the bundle was trained with.

    Raises:
        BundleError: They do not fit the settings of ``method``.
    """
    try:
        return from_dict(kind, bundle.config["config"])
    except (UsageError, AttributeError) as error:
        raise BundleError(f"{bundle.uri}: its settings do not fit {method}: {error}") from error


def require_facts(bundle: Bundle, facts: Mapping[str, Any]) -> None:
    """Checks that the facts of config.json agree with its settings.

    Raises:
        BundleError: A fact is missing or differs.
    """
    require_keys(bundle, tuple(facts))
    for key, value in facts.items():
        if bundle.config[key] != value:
            raise BundleError(f"{bundle.uri}: config.json says {key} {bundle.config[key]!r}, its settings {value!r}")


def load_weights(network: nn.Module, bundle: Bundle) -> None:
    """Loads the bundle's weights into ``network``.

    Raises:
        BundleError: Names or shapes differ.
    """
    try:
        network.load_state_dict(bundle.weights())
    except RuntimeError as error:
        raise BundleError(f"the weights of {bundle.uri} do not fit its config: {error}") from error
