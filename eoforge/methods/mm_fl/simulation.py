"""All silos of MM-FL in one process: a country becomes a silo with its radar and one with its optical images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from eoforge.data.loading.prepare import Prepare
from eoforge.errors import UsageError
from eoforge.federated import simulate
from eoforge.federated.simulate import Federation
from eoforge.federated.strategies.mm_fl import SENSORS
from eoforge.federated.strategy import SiloInfo
from eoforge.federated.training.checkpoint import Checkpoint
from eoforge.federated.training.data import Images, evaluate
from eoforge.federated.training.local import SiloTrainer
from eoforge.federated.training.outcome import Normalisation, normalisation_of, training_rows
from eoforge.federated.training.sensor_data import SensorData, sensors_of, slots_of
from eoforge.federated.training.simulation import Patches, Simulated, run_rounds, traffic_of
from eoforge.federated.training.specs import specs_of
from eoforge.methods.mm_fl.config import Config
from eoforge.methods.mm_fl.model import MultiModalNetwork
from eoforge.nn.build import choose_device, seeded
from eoforge.storage.addresses import TableRef
from eoforge.storage.tensorfile import Array, TensorSpec

VIEWS: dict[str, tuple[str, ...]] = {"s1": ("s1",), "s2": ("s2",), "both": SENSORS}
"""What a place may have at inference."""


def build_network(config: Config) -> MultiModalNetwork:
    """The network with the initial weights of the run."""
    return seeded(lambda: MultiModalNetwork(config), config.seed)


def first_model(config: Config) -> tuple[dict[str, TensorSpec], dict[str, Array]]:
    """What a coordinator starts from: specs and values of all tensors, by names without group."""
    network = build_network(config)
    return specs_of(network), {n: t.numpy() for n, t in network.state_dict().items()}


def images_of(
    table: TableRef, config: Config, normalisation: Normalisation, sensors: Sequence[str] = SENSORS
) -> Images:
    """The table's patches of those sensors as the networks read them."""
    prepares = {}
    for sensor in sensors:
        bands = config.bands[sensor]
        mean, std = zip(*(normalisation[band] for band in bands), strict=True)
        prepares[sensor] = Prepare(bands, list(mean), list(std), config.size, config.interpolation)
    return Images(table, prepares, config.memory_patches)


def silo_trainer(
    config: Config,
    table: TableRef,
    silo: str,
    sensors: Sequence[str],
    normalisation: Normalisation,
    device: str | None = None,
) -> SiloTrainer:
    """What runs beside one silo's table: all its training patches of the sensors it takes part with.

    Raises:
        NotFound: The table holds no such training patch.
        UsageError: No sensor is named.
    """
    held = tuple(sensor for sensor in SENSORS if sensor in sensors)
    if not held:
        raise UsageError(f"a silo holds {' or '.join(SENSORS)} or both; got {', '.join(sensors) or 'none'}")
    table, places, training = training_rows(table, config)
    strategy, where = config.strategy(), choose_device(device)
    data = SensorData(
        images_of(table, config, normalisation, held),
        training,
        places.held_out("validation", config.countries, config.months),
        silo,
        held,
        slots_of(places.cell.tolist(), strategy.salt, strategy.slots),
        config.batch_size,
        config.seed,
        where,
    )
    return SiloTrainer(strategy, lambda: build_network(config), data, config.local(), where)


def play(
    config: Config, table: TableRef, checkpoint: Checkpoint | None = None, images: Images | None = None
) -> Simulated:
    """Plays a run to its end, from where ``checkpoint`` left it; see :func:`eoforge.methods.fl_rs.simulation.play`.

    Figures are named by what a place has: ``s1_f1_micro``, ``s2_...``, ``both_...``.

    Raises:
        NotFound: No silo has enough patches, or the table has no test patch for this run.
    """
    patches = Patches.of(table, config)
    normalisation = normalisation_of(table, (*config.s1_bands, *config.s2_bands))
    images = images or images_of(table, config, normalisation)
    device = choose_device(None)
    network = build_network(config).to(device)
    strategy = config.strategy()
    slots = slots_of(patches.cells, strategy.salt, strategy.slots)

    def score(federation: Federation, rows: Any = patches.validation) -> dict[str, float]:
        if not len(rows):
            return {}
        network.load_state_dict({n: torch.from_numpy(np.array(a)) for n, a in federation.model().items()})
        figures = {
            view: evaluate(network, images, rows, sensors_of(sensors), config.batch_size, device)
            for view, sensors in VIEWS.items()
        }
        return {f"{view}_{name}": value for view, row in figures.items() for name, value in row.items()}

    held = {"": SENSORS} if config.mim == "paired" else {sensor: (sensor,) for sensor in SENSORS}
    silos, trainers = [], {}
    for country, rows in patches.shares.items():
        for modality, sensors in held.items():
            silo = SiloInfo(f"{country}-{modality}" if modality else country, len(rows), modality)
            data = SensorData(
                images, rows, patches.test, silo.id, sensors, slots, config.batch_size, config.seed, device
            )
            silos.append(silo)
            trainers[silo.id] = SiloTrainer(strategy, lambda: build_network(config), data, config.local(), device)
    silos.sort(key=lambda silo: silo.id)
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
        {},
        traffic_of(strategy, federation, silos),
    )
