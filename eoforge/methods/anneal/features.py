"""Features of an archive's patches, computed once per session: the encoder is frozen."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eoforge.bundle import load_bundle
from eoforge.data.loading.batch import PatchBatch
from eoforge.data.loading.prepare import Prepare
from eoforge.data.tables.statistics import band_statistics
from eoforge.errors import DamagedObject, NotFound, UsageError
from eoforge.index.encode import encode_rows
from eoforge.methods import encoding
from eoforge.methods.anneal.config import Config
from eoforge.methods.anneal.model import Anneal
from eoforge.methods.run import Normalisation
from eoforge.methods.ss_cm_rsir.config import Config as StartConfig
from eoforge.nn.build import choose_device, seeded
from eoforge.progress import track
from eoforge.storage.addresses import TableRef, join, open_table
from eoforge.storage.objects import ObjectStore

START_METHOD = "ss_cm_rsir"
FILE = "features.npz"
_MAX_BYTES = 64 << 30
_SHARED = ("s1_bands", "s2_bands", "size", "interpolation", "backbone", "width")


@dataclass(frozen=True)
class Patches:
    """Patches of one split.

    Attributes:
        names: Patch ids ``[N]``.
        features: Float32 ``[N, F]``.
        masks: Label masks, uint32 ``[N]``; 0 without labels.
    """

    names: tuple[str, ...]
    features: Tensor
    masks: npt.NDArray[np.uint32]

    @cached_property
    def row_of(self) -> Mapping[str, int]:
        """Row of each patch."""
        return {name: row for row, name in enumerate(self.names)}

    def first(self, number: int) -> Patches:
        """The first ``number`` patches."""
        return Patches(self.names[:number], self.features[:number], self.masks[:number])


@dataclass(frozen=True)
class Features:
    """Features of the training split, from which pairs are made, and of the validation split."""

    pool: Patches
    validation: Patches


def with_start(config: Config) -> Config:
    """Settings with the encoder of the bundle that ``start`` names: its bands, size, resampling and backbone.

    Raises:
        NotFound: There is no such bundle.
        BundleError: It is damaged, or of another method.
    """
    if not config.start:
        return config
    bundle = load_bundle(config.start)
    encoding.require_method(bundle, START_METHOD)
    start = encoding.settings_of(bundle, StartConfig, START_METHOD)
    return replace(config, start=bundle.uri, **{name: getattr(start, name) for name in _SHARED})


def initial_network(config: Config, table: TableRef) -> tuple[Anneal, Normalisation]:
    """Network with the frozen encoder, and the normalisation of its input.

    Raises:
        NotFound: The bundle that ``start`` names, or the table, does not exist.
        UsageError: ``start`` names a bundle with another encoder than the settings; see :func:`with_start`.
    """
    network = seeded(lambda: Anneal(config), config.seed)
    bands = config.sensor_bands[config.modality]
    if not config.start:
        return network, band_statistics(table).normalisation(bands)
    if with_start(config) != config:
        raise UsageError(f"the bundle {config.start} has another encoder than this session")
    bundle = load_bundle(config.start)
    prefix = f"branches.{config.modality}.encoder."
    weights = {name.removeprefix(prefix): w for name, w in bundle.weights().items() if name.startswith(prefix)}
    network.encoder.load_state_dict(weights)
    means, deviations = encoding.normalisation(bundle, bands)
    return network, dict(zip(bands, zip(means, deviations, strict=True), strict=True))


class _FrozenEncoder:
    """Features in the place of embeddings; see :class:`eoforge.index.encoder.Encoder`."""

    def __init__(self, network: Anneal, prepare: Prepare, device: torch.device) -> None:
        self.bits, self.embedding_dim, self.device = 8, network.width, device
        self.modalities: tuple[str, ...] = (prepare.modality,)
        self._encoder, self._prepare = network.encoder.to(device).eval(), prepare.to(device)

    @torch.inference_mode()
    def encode(self, batch: PatchBatch, modality: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """No codes, and features ``[B, F]``."""
        features = self._encoder(self._prepare(batch.to(self.device))).float().cpu().numpy()
        return np.zeros((len(features), 1), np.uint8), features


def compute_features(config: Config, table: TableRef, device: str | None = None) -> Features:
    """Features of the patches that have the sensor, in the order of the table.

    Raises:
        NotFound: The training split has no patch with the sensor.
    """
    network, normalisation = initial_network(config, table)
    prepare = Prepare.of(config.sensor_bands[config.modality], normalisation, config.size, config.interpolation)
    encoder = _FrozenEncoder(network, prepare, choose_device(device))
    dataset = open_table(table)
    splits = dataset.to_table(columns=["split"])["split"].to_numpy()
    found: dict[str, Patches] = {}
    for split, limit in (("train", len(splits)), ("validation", config.validation_patches)):
        rows = np.flatnonzero(splits == split)[:limit]
        with track(f"features of {split}", len(rows)) as progress:
            blocks = []
            for block in encode_rows(dataset, rows, encoder, columns=("patch_id", "label_mask")):
                progress.advance(block.patches)
                if config.modality in block.outputs:
                    blocks.append((block.columns[config.modality], block.outputs[config.modality][1]))
        names = [name for columns, _ in blocks for name in columns["patch_id"].to_pylist()]
        masks = [mask or 0 for columns, _ in blocks for mask in columns["label_mask"].to_pylist()]
        parts = [features for _, features in blocks] or [np.empty((0, network.width), np.float32)]
        found[split] = Patches(tuple(names), torch.from_numpy(np.concatenate(parts)), np.array(masks, np.uint32))
    if not found["train"].names:
        raise NotFound(f"the training split of {table} has no patch of {config.modality}")
    return Features(found["train"], found["validation"])


def stored_features(address: str, config: Config, table: TableRef) -> Features:
    """Features from the file of a session, computed and written by the first call."""
    store = ObjectStore(address)
    try:
        return _parse(store.get(FILE, _MAX_BYTES), join(address, FILE))
    except NotFound:
        features = compute_features(config, table)
        store.put_if_absent(FILE, _dump(features))
        return features


def _dump(features: Features) -> bytes:
    arrays: dict[str, Any] = {}
    for split, patches in vars(features).items():
        arrays[f"{split}_names"] = np.frombuffer(json.dumps(patches.names).encode(), np.uint8)
        arrays[f"{split}_features"] = patches.features.numpy()
        arrays[f"{split}_masks"] = patches.masks
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _parse(data: bytes, where: str) -> Features:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as held:
            splits = {
                split: Patches(
                    tuple(json.loads(held[f"{split}_names"].tobytes())),
                    torch.from_numpy(held[f"{split}_features"]),
                    held[f"{split}_masks"],
                )
                for split in ("pool", "validation")
            }
    except Exception as error:  # zipfile and numpy have a class for each way a file can be wrong
        raise DamagedObject(f"{where} holds no features: {error}. Delete it, and it is computed again") from error
    return Features(**splits)
