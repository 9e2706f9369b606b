"""What a federated run needs besides its strategy: first model, silo trainers, and the bundle at its end.

Simulation and service go through here alike, so a model is the same whoever carried the updates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from eoforge.bundle import Bundle, code_revision, model_card, write_bundle
from eoforge.data.labels import NUM_CLASSES
from eoforge.data.loading.prepare import Prepare
from eoforge.data.tables.statistics import band_statistics
from eoforge.errors import NotFound, UsageError
from eoforge.federated.strategies.registry import make_strategy, strategy_type
from eoforge.federated.training.data import Images, TableData
from eoforge.federated.training.local import SiloTrainer
from eoforge.federated.training.scenarios import Places, Rows
from eoforge.federated.training.specs import specs_of
from eoforge.methods.fl_rs.config import Config, FederatedConfig
from eoforge.nn.build import choose_device, seeded
from eoforge.nn.classifier import Classifier
from eoforge.storage.addresses import TableRef, open_table
from eoforge.storage.tensorfile import Array, TensorSpec

Normalisation = Mapping[str, tuple[float, float]]
"""Band -> (mean, standard deviation)."""

_CARD = (
    "Multi-label land-cover classification, trained over {silos} silos that kept their patches. Codes "
    "for retrieval are signs of a fixed projection of the standardised representation."
)


class Classified(Protocol):
    """A network with codes: its representation has ``features`` numbers."""

    features: int

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All tensors by name."""


def build_network(config: Config) -> Classifier:
    """The network with the initial weights of the run."""
    projection = strategy_type(config.algorithm).projection
    return seeded(
        lambda: Classifier(
            config.backbone, len(config.bands), config.size, config.width, projection, config.bits, NUM_CLASSES
        ),
        config.seed,
    )


def first_model(config: Config) -> tuple[dict[str, TensorSpec], dict[str, Array]]:
    """What a coordinator starts from: specs and values of all tensors, by names without group."""
    network = build_network(config)
    return specs_of(network), {n: t.numpy() for n, t in network.state_dict().items()}


def normalisation_of(table: TableRef, bands: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """Means and deviations of the table's training split."""
    statistics = band_statistics(table)
    return dict(
        zip(bands, zip(statistics.mean(bands).tolist(), statistics.std(bands).tolist(), strict=True), strict=True)
    )


def images_of(table: TableRef, config: Config, normalisation: Normalisation) -> Images:
    """The table's patches as this run's networks read them."""
    mean, std = zip(*(normalisation[band] for band in config.bands), strict=True)
    prepare = Prepare(config.bands, list(mean), list(std), config.size, config.interpolation)
    return Images(table, {config.modality: prepare}, config.memory_patches)


def silo_trainer(
    config: Config, table: TableRef, silo: str, normalisation: Normalisation, device: str | None = None
) -> SiloTrainer:
    """What runs beside one silo's table: all its training patches, evaluated on its validation split.

    Args:
        config: Of the run; countries and months apply, the scenario does not: a silo is what its table holds.
        table: The silo's own.
        silo: Its id.
        normalisation: Of the run, equal for all silos.
        device: Where to train; CUDA where there is one.

    Raises:
        NotFound: The table holds no such training patch.
    """
    table, places, training = training_rows(table, config)
    where = choose_device(device)
    held_out = places.held_out("validation", config.countries, config.months)
    images = images_of(table, config, normalisation)
    data = TableData(images, training, held_out, silo, config.batch_size, config.seed, where)
    return trainer(config, data, where)


def training_rows(table: TableRef, config: FederatedConfig) -> tuple[TableRef, Places, Rows]:
    """A silo's table at a version, its metadata, and the rows that it trains on in this run.

    Raises:
        NotFound: There are fewer than the run wants of a silo.
    """
    pinned = TableRef(table.uri, table.version or int(open_table(table).version))
    places = Places.read(pinned)
    training = places.held_out("train", config.countries, config.months)
    if len(training) < config.min_patches:
        raise NotFound(f"{table} holds {len(training)} training patches for this run; expected {config.min_patches}")
    return pinned, places, training


def trainer(config: Config, data: TableData, device: torch.device) -> SiloTrainer:
    """The run's training around any data."""
    strategy = make_strategy(config.algorithm, config.options())
    return SiloTrainer(strategy, lambda: build_network(config), data, config.local(), device)


@dataclass(frozen=True)
class Outcome:
    """What a finished run hands over to its bundle.

    Attributes:
        model: Tensors of the global model, by names without group.
        metrics: JSON values.
        silos: Silo id -> training patches.
        normalisation: Of the run.
        table: Tagged as the training data; None where silos hold it.
    """

    model: Mapping[str, Array]
    metrics: Mapping[str, Any]
    silos: Mapping[str, int]
    normalisation: Normalisation
    table: TableRef | None


def write_run(
    method: str,
    config: FederatedConfig,
    network: Classified,
    bands: Mapping[str, tuple[str, ...]],
    outcome: Outcome,
    out: str,
    extra_files: Mapping[str, bytes],
) -> Bundle:
    """Writes the run bundle, which can be indexed and served like any other.

    Args:
        method: Name of the method that can load it.
        config: Of the run.
        network: As the config builds it; its weights are not used.
        bands: By sensor.
        outcome: Of the run.
        out: Folder of bundles.
        extra_files: Further files of the bundle.

    Raises:
        UsageError: The model's tensors are not those of ``network``.
    """
    expected = {n: tuple(t.shape) for n, t in network.state_dict().items()}
    got = {n: tuple(a.shape) for n, a in outcome.model.items()}
    if got != expected:
        wrong = sorted(n for n in got.keys() | expected.keys() if got.get(n) != expected.get(n))
        raise UsageError(f"the model does not fit {config.backbone}: {', '.join(wrong[:3])} differ")
    table = outcome.table
    facts = {
        "method": method,
        "config": config.as_dict(),
        "bands": {sensor: list(names) for sensor, names in bands.items()},
        "normalisation": {band: list(values) for band, values in outcome.normalisation.items()},
        "interpolation": config.interpolation,
        "bits": config.bits,
        "embedding_dim": network.features,
        "seed": config.seed,
        "patches": {"uri": table.uri, "version": table.version} if table else {},
        "code_revision": code_revision(),
        "silos": dict(outcome.silos),
    }
    return write_bundle(
        out,
        weights={n: torch.from_numpy(np.array(a)) for n, a in outcome.model.items()},
        config=facts,
        metrics=dict(outcome.metrics),
        readme=_card(method, config, bands, outcome),
        extra_files=extra_files,
    )


def _card(method: str, config: FederatedConfig, bands: Mapping[str, tuple[str, ...]], outcome: Outcome) -> str:
    where = f"`{outcome.table.uri}` at version {outcome.table.version}" if outcome.table else "tables that silos hold"
    return model_card(
        method,
        _CARD.format(silos=len(outcome.silos)),
        trained_on=f"the `train` split of {where}",
        bands=bands,
        measured="`validation_...` and `test_...` are of those splits of the same places.",
        figures=outcome.metrics,
        silos=outcome.silos,
        settings=config.as_dict(),
    )
