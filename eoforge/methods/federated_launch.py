"""A federated run of ``fl_rs`` or ``mm_fl`` on the service: what the operator asks for, and what a silo trains with."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.bundle import code_revision
from eoforge.config import from_dict
from eoforge.errors import UsageError
from eoforge.federated.result import plain
from eoforge.federated.strategies.registry import make_strategy
from eoforge.federated.strategy import LocalTrainer, Strategy
from eoforge.methods import federated_methods, get_method
from eoforge.storage.addresses import TableRef, open_table
from eoforge.storage.tensorfile import Array, Role, write_file

if TYPE_CHECKING:
    from eoforge.client.federation import FederationClient
    from eoforge.federated.training.outcome import Normalisation

FEDERATED = federated_methods()


def prepare(
    method: str, preset: str, overrides: Mapping[str, str], file: str | None, statistics: str | None
) -> tuple[pb.RunSpec, dict[str, Array], dict[str, Role]]:
    """A run's spec without policy, its first model, and the roles of the model's tensors.

    Args:
        method: The method.
        preset: Its preset.
        overrides: Configuration overrides.
        file: Configuration file.
        statistics: Table whose band statistics all silos normalise by.

    Raises:
        UsageError: The method is not federated, a setting is unknown, or ``statistics`` is missing.
    """
    from eoforge.federated.training.outcome import normalisation_of
    from eoforge.federated.training.specs import specs_of

    if method not in FEDERATED:
        raise UsageError(f"the service federates {', '.join(FEDERATED)}; got {method!r}")
    if statistics is None:
        raise UsageError("name a table whose band statistics all silos normalise by (--statistics TABLE)")
    chosen: Any = get_method(method)
    config = chosen.config(preset, overrides, file)
    bands = chosen.bands(config)
    normalisation = normalisation_of(TableRef.parse(statistics), tuple(b for names in bands.values() for b in names))
    network = chosen.build(config)
    specs, model = specs_of(network), {n: t.numpy() for n, t in network.state_dict().items()}
    strategy, options = chosen.strategy(config)
    spec = pb.RunSpec(method=method, strategy=strategy, seed=config.seed)
    spec.policy.rounds, spec.policy.selection = config.rounds, pb.SELECTION_ALL
    spec.strategy_options.update(options)
    facts = {"config": config.as_dict(), "normalisation": {b: list(v) for b, v in normalisation.items()}}
    spec.config.update(facts)
    spec.bundle_config.update(
        {
            **facts,
            "bands": {sensor: list(names) for sensor, names in bands.items()},
            "interpolation": config.interpolation,
            "bits": config.bits,
            "embedding_dim": network.features,
            "code_revision": code_revision(),
        }
    )
    return spec, model, {name: tensor.role for name, tensor in specs.items()}


def upload_model(
    client: FederationClient, spec: pb.RunSpec, model: Mapping[str, Array], roles: Mapping[str, Role]
) -> None:
    """Stores the first model on the coordinator and names it in ``spec``."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.safetensors"
        write_file(path, model, roles)
        spec.initial_model.CopyFrom(client.put_model(path))


def trainers(
    task: pb.Task, table: TableRef, silo: str, device: str | None = None, modalities: Sequence[str] = ("s1", "s2")
) -> LocalTrainer:
    """What a silo trains with in a run, given the modalities that it registered with.

    Raises:
        UsageError: The run's method is not federated, or its configuration is of another version.
    """
    if task.method not in FEDERATED:
        raise UsageError(f"this silo trains {', '.join(FEDERATED)}; the run wants {task.method!r:.80}")
    chosen: Any = get_method(task.method)
    given = plain(task.config)
    normalisation: Normalisation = {band: (v[0], v[1]) for band, v in given["normalisation"].items()}
    config = from_dict(chosen.config_type, given["config"])
    trainer: LocalTrainer = chosen.silo_trainer(config, table, silo, modalities, normalisation, device)
    return trainer


def strategy_of(task: pb.Task) -> Strategy:
    """The strategy of a task."""
    return make_strategy(task.strategy, plain(task.strategy_options))


def training_patches(table: TableRef) -> int:
    """Patches of the training split."""
    return int(open_table(table).count_rows("split = 'train'"))
