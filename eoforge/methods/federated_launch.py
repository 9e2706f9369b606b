"""Launch of a federated run on the service: the run's spec and first model, and the trainer of a silo."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eoforge.api.federation.v1 import federation_pb2 as pb
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
    from eoforge.federated.training.config import FederatedConfig


def prepare(
    method: str, preset: str, overrides: Mapping[str, str], file: str | None, statistics: str | None
) -> tuple[pb.RunSpec, dict[str, Array], dict[str, Role]]:
    """Spec of a run without its policy, first model, and the roles of the model's tensors.

    Args:
        method: Name of a federated method.
        preset: Preset of its settings.
        overrides: Settings to change, as text.
        file: File of settings, or None.
        statistics: Table whose band statistics all silos normalise by.

    Raises:
        UsageError: The method is not federated, a setting is unknown, or ``statistics`` is missing.
    """
    from eoforge.federated.training.data import normalisation_of
    from eoforge.federated.training.outcome import network_facts
    from eoforge.federated.training.specs import first_model

    _require_federated(method)
    if statistics is None:
        raise UsageError("name a table whose band statistics all silos normalise by (--statistics TABLE)")
    chosen: Any = get_method(method)
    config: FederatedConfig = chosen.config(preset, overrides, file)
    network = chosen.build(config)
    specs, model = first_model(network)
    facts = network_facts(config, network.features, normalisation_of(TableRef.parse(statistics), config.bands_read))
    spec = pb.RunSpec(method=method, strategy=config.strategy_name, seed=config.seed)
    spec.policy.rounds, spec.policy.selection = config.rounds, pb.SELECTION_ALL
    spec.strategy_options.update(config.options())
    spec.config.update({name: facts[name] for name in ("config", "normalisation")})
    spec.bundle_config.update(facts)
    return spec, model, {name: tensor.role for name, tensor in specs.items()}


def upload_model(
    client: FederationClient, spec: pb.RunSpec, model: Mapping[str, Array], roles: Mapping[str, Role]
) -> None:
    """Upload of the first model to the coordinator, and its manifest in ``spec``."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.safetensors"
        write_file(path, model, roles)
        spec.initial_model.CopyFrom(client.put_model(path))


def trainers(
    task: pb.Task, table: TableRef, silo: str, device: str | None = None, modalities: Sequence[str] = ("s1", "s2")
) -> LocalTrainer:
    """Trainer of a silo in a run.

    Args:
        task: A task of the run.
        table: Table of the silo.
        silo: Id of the silo.
        device: Device to train on; CUDA where there is one if None.
        modalities: Modalities that the silo registered with.

    Raises:
        UsageError: The run's method is not federated, or its configuration is of another version.
    """
    from eoforge.federated.training.setup import silo_trainer

    _require_federated(task.method)
    chosen: Any = get_method(task.method)
    given = plain(task.config)
    normalisation = {band: (values[0], values[1]) for band, values in given["normalisation"].items()}
    config = from_dict(chosen.config_type, given["config"])
    return silo_trainer(chosen, config, _pinned(table, task), silo, modalities, normalisation, device)


def _pinned(table: TableRef, task: pb.Task) -> TableRef:
    """Table of a silo at the version that the run uses.

    Raises:
        UsageError: The task names another version than the silo may use, or none.
    """
    if not task.data_version:  # a coordinator of an older version
        return table
    if not task.data_version.isdecimal() or table.version not in (None, int(task.data_version)):
        raise UsageError(f"this silo serves {table}; the run was registered with version {task.data_version!r:.80}")
    return TableRef(table.uri, int(task.data_version))


def table_snapshot(table: TableRef) -> dict[str, Any]:
    """Counts and version of a silo's table, as it registers them."""
    version = table.version or int(open_table(table).version)
    dataset = open_table(TableRef(table.uri, version))
    return {
        "samples": int(dataset.count_rows("split = 'train'")),
        "validation_samples": int(dataset.count_rows("split = 'validation'")),
        "data_version": str(version),
    }


def strategy_of(task: pb.Task) -> Strategy:
    """Strategy of a task."""
    return make_strategy(task.strategy, plain(task.strategy_options))


def training_patches(table: TableRef) -> int:
    """Number of patches in the training split."""
    return int(open_table(table).count_rows("split = 'train'"))


def _require_federated(method: str) -> None:
    if method not in federated_methods():
        raise UsageError(f"the federated methods are {', '.join(federated_methods())}; got {method!r:.80}")
