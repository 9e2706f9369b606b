"""Simulation of a federated run: all silos of a scenario in one process, with the cost and quality of each round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eoforge.errors import NotFound
from eoforge.federated import simulate
from eoforge.federated.simulate import Federation, RoundFigures
from eoforge.federated.strategies.base import Averaging
from eoforge.federated.strategy import SiloInfo, wire_bytes
from eoforge.federated.training.checkpoint import Checkpoint
from eoforge.federated.training.config import FederatedConfig
from eoforge.federated.training.data import Images, evaluate, images_of, logits_of, normalisation_of
from eoforge.federated.training.local import SiloTrainer
from eoforge.federated.training.scenarios import PatchMetadata, Rows, assign, skew
from eoforge.federated.training.setup import TrainingSetup
from eoforge.federated.training.specs import first_model
from eoforge.nn.build import choose_device
from eoforge.nn.classifier import Network
from eoforge.progress import track
from eoforge.storage.addresses import TableRef


@dataclass
class Simulated:
    """A finished simulation and its measurements.

    Attributes:
        federation: State after the last round.
        silos: All silos.
        history: Per round: loss, bytes, seconds, ``validation_...``.
        skew: Inequality of the silos, see :func:`~eoforge.federated.training.scenarios.skew`.
        normalisation: Band -> (mean, standard deviation).
        test: Figures of the global model on the test patches.
        personal: Mean over silos of the same figures, each silo with its own model; empty if all use the global one.
        traffic: Bytes of one full round over all silos: down, up, and the model once.
        validation: Logits and labels ``[N, L]`` of the global model on the validation patches, from all sensors of the
            run; None if there are no such patches.
    """

    federation: Federation
    silos: list[SiloInfo]
    history: list[dict[str, Any]]
    skew: dict[str, Any]
    normalisation: dict[str, tuple[float, float]]
    test: dict[str, float]
    personal: dict[str, float]
    traffic: dict[str, int]
    validation: tuple[Tensor, Tensor] | None

    def metrics(self) -> dict[str, Any]:
        """Metrics of the run's bundle."""
        last = self.history[-1]
        return {
            "loss": last["loss"],
            "rounds": self.federation.round,
            "silos": len(self.silos),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "torch": torch.__version__,
            **_prefixed("traffic_", self.traffic),
            **{name: value for name, value in last.items() if name.startswith("validation_")},
            **_prefixed("test_", self.test),
            **_prefixed("test_personal_", self.personal),
            "size_ratio": self.skew["size_ratio"],
            "label_divergence": self.skew["label_divergence"],
            "history": self.history,
        }


def play(
    setup: TrainingSetup,
    config: FederatedConfig,
    table: TableRef,
    checkpoint: Checkpoint | None = None,
    images: Images | None = None,
) -> Simulated:
    """Simulation of a run up to its last round, from ``checkpoint`` on.

    Args:
        setup: Method of the run.
        config: Settings of the run.
        table: A patches table at a version.
        checkpoint: Storage of the federation after every round.
        images: Images to share between runs over one table with equal bands and size.

    Raises:
        NotFound: No silo has enough patches, or the table has no test patch for this run.
    """
    metadata = PatchMetadata.read(table)
    shares = assign(
        metadata,
        config.scenario,
        countries=config.countries,
        months=config.months,
        min_patches=config.min_patches,
        seed=config.seed,
    )
    validation, test = (metadata.rows_of(s, config.countries, config.months) for s in ("validation", "test"))
    if not len(test):
        raise NotFound(f"{table} has no test patch in these countries and months; nothing could be measured")
    normalisation = normalisation_of(table, config.bands_read)
    images = images or images_of(table, config, normalisation)
    device, strategy, network = choose_device(None), config.strategy(), setup.build(config)
    data = setup.data(config, metadata.cell.tolist())

    silos, trainers = [], {}
    for share, rows in shares.items():
        for suffix, sensors in setup.silo_sensors(config).items():
            silo = SiloInfo(share + suffix, len(rows), sensors[0] if len(sensors) == 1 else "")
            patches = data(
                images, rows, test, silo.id, sensors, batch_size=config.batch_size, seed=config.seed, device=device
            )
            silos.append(silo)
            trainers[silo.id] = SiloTrainer(strategy, lambda: setup.build(config), patches, config.local(), device)
    silos.sort(key=lambda silo: silo.id)
    federation = simulate.begin(strategy, *first_model(network), silos)
    network.to(device)

    def newest() -> Network:
        network.load_state_dict({n: torch.from_numpy(np.array(a)) for n, a in federation.model().items()})
        return network

    def score(rows: Rows) -> dict[str, float]:
        if not len(rows):
            return {}
        newest()
        figures: dict[str, float] = {}
        for prefix, view in setup.views(config).items():
            figures |= _prefixed(prefix, evaluate(network, images, rows, view, config.batch_size, device))
        return figures

    history = checkpoint.load(federation) if checkpoint is not None else []
    with track(f"{strategy.name} {config.scenario}", config.rounds - federation.round) as progress:

        def after(federation: Federation, figures: RoundFigures) -> None:
            history.append({**_row(figures), **_prefixed("validation_", score(validation))})
            if checkpoint is not None:
                checkpoint.save(federation, history)
            progress.advance()

        simulate.run(
            strategy,
            federation,
            silos,
            trainers,
            config.rounds,
            fraction=config.fraction,
            seed=config.seed,
            after=after,
        )
    every_sensor = list(setup.views(config).values())[-1]
    return Simulated(
        federation,
        silos,
        history,
        skew(metadata, shares),
        normalisation,
        score(test),
        _personal(strategy, federation, silos, trainers) if strategy.personal else {},
        _traffic(strategy, federation, silos),
        logits_of(newest(), images, validation, every_sensor, config.batch_size, device) if len(validation) else None,
    )


def _row(figures: RoundFigures) -> dict[str, Any]:
    return {
        "round": figures.round,
        "loss": figures.loss,
        "down": figures.down,
        "up": figures.up,
        "local_seconds": sum(figures.local_seconds.values()),
        "aggregation_seconds": figures.aggregation_seconds,
    }


def _prefixed(prefix: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in figures.items()}


def _personal(
    strategy: Averaging, federation: Federation, silos: Sequence[SiloInfo], trainers: Mapping[str, SiloTrainer]
) -> dict[str, float]:
    """Figures of each silo's own model on the common test patches, mean over silos."""
    rows = [
        trainers[s.id].evaluate(simulate.task_for(strategy, federation, s, silos), federation.silos.get(s.id, {}))
        for s in silos
    ]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _traffic(strategy: Averaging, federation: Federation, silos: Sequence[SiloInfo]) -> dict[str, int]:
    """Bytes of one full round over all silos: down, up, and the model once."""
    sizes = [wire_bytes(strategy, silo, federation.specs) for silo in silos]
    model = sum(a.nbytes for a in federation.model().values())
    return {"down": sum(d for d, _ in sizes), "up": sum(u for _, u in sizes), "model": model}
