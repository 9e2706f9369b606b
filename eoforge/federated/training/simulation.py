"""All silos of a scenario in one process: plays a run round by round, and measures what each round costs and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import torch

from eoforge.errors import NotFound
from eoforge.federated import simulate
from eoforge.federated.simulate import Federation, RoundFigures
from eoforge.federated.strategies.base import Averaging
from eoforge.federated.strategies.registry import make_strategy
from eoforge.federated.strategy import SiloInfo, wire_bytes
from eoforge.federated.training.checkpoint import Checkpoint
from eoforge.federated.training.data import Images, TableData, evaluate
from eoforge.federated.training.local import SiloTrainer
from eoforge.federated.training.outcome import build_network, first_model, images_of, normalisation_of, trainer
from eoforge.federated.training.scenarios import Places, Rows, assign, skew
from eoforge.methods.fl_rs.config import Config, FederatedConfig
from eoforge.nn.build import choose_device
from eoforge.progress import track
from eoforge.storage.addresses import TableRef

PERSONAL: tuple[str, ...] = ("fedbn", "pfedla")
"""Algorithms whose silos use models of their own."""


@dataclass
class Simulated:
    """A run and what was measured.

    Attributes:
        config: Its settings.
        federation: After the last round.
        silos: All of them.
        history: Per round: loss, bytes, seconds, ``validation_...``.
        skew: Of the scenario, see :func:`~eoforge.federated.training.scenarios.skew`.
        normalisation: Band -> (mean, deviation).
        test: Of the global model on the held-out test patches.
        personal: Mean over silos of the same, each silo using its own model; empty where all use the global one.
        traffic: Bytes of one full round over all silos: down, up, and the model once.
    """

    config: FederatedConfig
    federation: Federation
    silos: list[SiloInfo]
    history: list[dict[str, Any]]
    skew: dict[str, Any]
    normalisation: dict[str, tuple[float, float]]
    test: dict[str, float]
    personal: dict[str, float]
    traffic: dict[str, int]

    def metrics(self) -> dict[str, Any]:
        """For the bundle."""
        last = self.history[-1]
        return {
            "loss": last["loss"],
            "rounds": self.federation.round,
            "silos": len(self.silos),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "torch": torch.__version__,
            **{f"traffic_{name}": value for name, value in self.traffic.items()},
            **{name: value for name, value in last.items() if name.startswith("validation_")},
            **{f"test_{name}": value for name, value in self.test.items()},
            **{f"test_personal_{name}": value for name, value in self.personal.items()},
            "size_ratio": self.skew["size_ratio"],
            "label_divergence": self.skew["label_divergence"],
            "history": self.history,
        }


class _Watch:
    """Scores, records and keeps after every round."""

    def __init__(self, score: Callable[[Federation], Mapping[str, float]], checkpoint: Checkpoint | None) -> None:
        self.score, self.checkpoint = score, checkpoint
        self.history: list[dict[str, Any]] = []

    def __call__(self, federation: Federation, figures: RoundFigures) -> None:
        row: dict[str, Any] = {
            "round": figures.round,
            "loss": figures.loss,
            "down": figures.down,
            "up": figures.up,
            "local_seconds": sum(figures.local_seconds.values()),
            "aggregation_seconds": figures.aggregation_seconds,
        }
        row |= {f"validation_{name}": value for name, value in self.score(federation).items()}
        self.history.append(row)
        if self.checkpoint is not None:
            self.checkpoint.save(federation, self.history)


def run_rounds(
    config: FederatedConfig,
    strategy: Averaging,
    federation: Federation,
    silos: list[SiloInfo],
    trainers: Mapping[str, SiloTrainer],
    score: Callable[[Federation], Mapping[str, float]],
    checkpoint: Checkpoint | None,
) -> list[dict[str, Any]]:
    """Plays ``federation`` to its last round, from where ``checkpoint`` left it; the figures of all rounds."""
    watch = _Watch(score, checkpoint)
    if checkpoint is not None:
        watch.history = checkpoint.load(federation)
    with track(f"{strategy.name} {config.scenario}", config.rounds - federation.round) as progress:

        def after(federation: Federation, figures: RoundFigures) -> None:
            watch(federation, figures)
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
    return watch.history


@dataclass(frozen=True)
class Patches:
    """Which rows of a table a run uses.

    Attributes:
        shares: Silo id -> training rows.
        validation: Rows scored after every round; may be empty.
        test: Rows scored at the end.
        skew: How unequal the silos are.
        cells: Name of every patch of the table.
    """

    shares: dict[str, Rows]
    validation: Rows
    test: Rows
    skew: dict[str, Any]
    cells: Sequence[str]

    @classmethod
    def of(cls, table: TableRef, config: FederatedConfig) -> Patches:
        """Reads the metadata and deals the patches out.

        Raises:
            NotFound: No silo has enough patches, or the table has no test patch for this run.
        """
        places = Places.read(table)
        shares = assign(
            places,
            config.scenario,
            countries=config.countries,
            months=config.months,
            min_patches=config.min_patches,
            seed=config.seed,
        )
        test = places.held_out("test", config.countries, config.months)
        if not len(test):
            raise NotFound(f"{table} has no test patch in these countries and months; nothing could be measured")
        validation = places.held_out("validation", config.countries, config.months)
        return cls(shares, validation, test, skew(places, shares), places.cell.tolist())


def play(
    config: Config, table: TableRef, checkpoint: Checkpoint | None = None, images: Images | None = None
) -> Simulated:
    """Plays a run to its end, from where ``checkpoint`` left it.

    Args:
        config: The run.
        table: Patches, with a version.
        checkpoint: Keeps the federation after every round.
        images: To share between runs over one table with equal bands and size.

    Raises:
        NotFound: As :meth:`Patches.of`.
    """
    patches = Patches.of(table, config)
    normalisation = normalisation_of(table, config.bands)
    images = images or images_of(table, config, normalisation)
    device = choose_device(None)
    network = build_network(config).to(device)

    def score(federation: Federation, rows: Rows = patches.validation) -> dict[str, float]:
        if not len(rows):
            return {}
        network.load_state_dict({n: torch.from_numpy(np.array(a)) for n, a in federation.model().items()})
        return evaluate(network, images, rows, itemgetter(config.modality), config.batch_size, device)

    silos = [SiloInfo(name, len(rows), config.modality) for name, rows in patches.shares.items()]
    trainers = {
        silo: trainer(
            config, TableData(images, rows, patches.test, silo, config.batch_size, config.seed, device), device
        )
        for silo, rows in patches.shares.items()
    }
    strategy = make_strategy(config.algorithm, config.options())
    federation = simulate.begin(strategy, *first_model(config), silos)
    history = run_rounds(config, strategy, federation, silos, trainers, score, checkpoint)
    return Simulated(
        config,
        federation,
        silos,
        history,
        patches.skew,
        normalisation,
        score(federation, patches.test),
        _personal(strategy, federation, silos, trainers) if config.algorithm in PERSONAL else {},
        traffic_of(strategy, federation, silos),
    )


def _personal(
    strategy: Averaging, federation: Federation, silos: list[SiloInfo], trainers: Mapping[str, SiloTrainer]
) -> dict[str, float]:
    """Each silo's own model on the common test patches, mean over silos."""
    rows = [
        trainers[s.id].evaluate(simulate.task_for(strategy, federation, s, silos), federation.silos.get(s.id, {}))
        for s in silos
    ]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def traffic_of(strategy: Averaging, federation: Federation, silos: list[SiloInfo]) -> dict[str, int]:
    """Bytes of one full round over all silos: down, up, and the model once."""
    sizes = [wire_bytes(strategy, silo, federation.specs) for silo in silos]
    model = sum(a.nbytes for a in federation.model().values())
    return {"down": sum(d for d, _ in sizes), "up": sum(u for _, u in sizes), "model": model}
