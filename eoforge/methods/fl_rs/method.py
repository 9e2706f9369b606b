"""FL-RS for the command line, the pipelines and the services: one process plays coordinator and silos."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from eoforge.bundle import Bundle, load_bundle
from eoforge.config import build_config, from_dict
from eoforge.errors import BundleError, NotFound, UsageError
from eoforge.federated.strategy import LocalTrainer
from eoforge.federated.training.checkpoint import Checkpoint
from eoforge.federated.training.outcome import Normalisation, Outcome, build_network, silo_trainer, write_run
from eoforge.federated.training.simulation import Simulated, play
from eoforge.index.encoder import Encoder
from eoforge.methods import encoding
from eoforge.methods.fl_rs.config import Config, FederatedConfig
from eoforge.methods.run_files import run_name
from eoforge.nn.build import choose_device
from eoforge.nn.classifier import Network
from eoforge.storage.addresses import TableRef, normalise, open_table

SKEW = "skew.json"


class CodedNetwork(Protocol):
    """What a bundle holds: a classifier whose features have codes."""

    features: int

    def encode(self, image_BCSS: Tensor, modality: str) -> tuple[Tensor, Tensor]:
        """Hash logits ``[B, K]`` and unit embeddings ``[B, D]``."""


class FederatedMethod(ABC):
    """See :class:`eoforge.methods.Method`; FL-RS and MM-FL say what differs."""

    name: str
    config_type: type[Any]

    @abstractmethod
    def build(self, config: Any) -> Any:
        """The network of ``config`` with the run's initial weights."""

    @abstractmethod
    def bands(self, config: Any) -> dict[str, tuple[str, ...]]:
        """Bands by sensor."""

    @abstractmethod
    def play(self, config: Any, table: TableRef, checkpoint: Checkpoint) -> Simulated:
        """Plays the run."""

    @abstractmethod
    def strategy(self, config: Any) -> tuple[str, dict[str, Any]]:
        """Name and options of the run's strategy, as a coordinator is told."""

    @abstractmethod
    def silo_trainer(
        self,
        config: Any,
        table: TableRef,
        silo: str,
        sensors: Sequence[str],
        normalisation: Normalisation,
        device: str | None = None,
    ) -> LocalTrainer:
        """What runs beside one silo's table in the service.

        Raises:
            NotFound: The table holds no training patch for this run.
            UsageError: The silo does not hold what the run reads.
        """

    def config(self, preset: str, overrides: Mapping[str, str], file: str | None = None) -> Any:
        return build_config(self.config_type, preset, overrides, file)

    def train(self, data: TableRef, out: str, config: Any, *, resume: bool = True) -> Bundle:
        if not isinstance(config, self.config_type):
            raise UsageError(f"{self.name} trains with its own Config; got {type(config).__name__}")
        table = TableRef(normalise(data.uri), data.version or int(open_table(data).version))
        checkpoint = Checkpoint(normalise(out), run_name(self.name, config.as_dict(), table))
        if not resume:
            checkpoint.clear()
        elif (uri := checkpoint.finished()) is not None:
            try:
                return load_bundle(uri)
            except NotFound:
                checkpoint.clear()  # it was deleted since: train again
        played = self.play(config, table, checkpoint)
        outcome = Outcome(
            played.federation.model(),
            played.metrics(),
            {s.id: s.examples for s in played.silos},
            played.normalisation,
            table,
        )
        extra = {SKEW: (json.dumps(played.skew, indent=2) + "\n").encode()}
        bundle = write_run(self.name, config, self.build(config), self.bands(config), outcome, out, extra)
        checkpoint.finish(bundle.uri)
        return bundle

    def load(self, bundle: Bundle, device: str | None = None) -> Encoder:
        network, config = self._network(bundle, None)
        encoding.load_weights(network, bundle)
        return self._encoder(bundle, network, config, device)

    def untrained(self, bundle: Bundle, seed: int | None = None, device: str | None = None) -> Encoder:
        network, config = self._network(bundle, seed)
        return self._encoder(bundle, network, config, device)

    def classifier(self, bundle: Bundle, device: str | None = None) -> Network:
        """The trained network itself, in evaluation mode: for labels instead of codes.

        Raises:
            BundleError: As :meth:`load`.
        """
        network, _ = self._network(bundle, None)
        encoding.load_weights(network, bundle)
        classifier: Network = network.to(choose_device(device)).eval()
        return classifier

    def _network(self, bundle: Bundle, seed: int | None) -> tuple[Any, Any]:
        encoding.require_method(bundle, self.name)
        try:
            values = bundle.config["config"]
            config = from_dict(self.config_type, values if seed is None else {**values, "seed": seed})
        except (UsageError, AttributeError, TypeError) as error:
            raise BundleError(f"{bundle.uri}: its settings are none of {self.name}: {error}") from error
        return self.build(config), config

    def _encoder(self, bundle: Bundle, network: Any, config: FederatedConfig, device: str | None) -> Encoder:
        where: torch.device = choose_device(device)
        coded: CodedNetwork = network
        facts = {"bits": config.bits, "embedding_dim": coded.features, "interpolation": config.interpolation}
        for key, value in facts.items():
            if bundle.config[key] != value:
                raise BundleError(
                    f"{bundle.uri}: config.json says {key} {bundle.config[key]!r}, its settings {value!r}"
                )
        bands = encoding.bands_of(bundle, self.bands(config))
        prepare = {m: p.to(where) for m, p in encoding.prepares(bundle, bands, config.size).items()}
        return encoding.HashEncoder(network.to(where).eval(), prepare, config.bits, coded.features, where)


class FlRsMethod(FederatedMethod):
    """The nine algorithms on one sensor."""

    name = "fl_rs"
    config_type: type[Any] = Config

    def build(self, config: Config) -> Any:
        return build_network(config)

    def bands(self, config: Config) -> dict[str, tuple[str, ...]]:
        return {config.modality: config.bands}

    def strategy(self, config: Config) -> tuple[str, dict[str, Any]]:
        return config.algorithm, config.options()

    def silo_trainer(
        self,
        config: Config,
        table: TableRef,
        silo: str,
        sensors: Sequence[str],
        normalisation: Normalisation,
        device: str | None = None,
    ) -> LocalTrainer:
        if config.modality not in sensors:
            raise UsageError(
                f"the run reads {config.modality}; this silo takes part with {', '.join(sensors) or 'none'}"
            )
        return silo_trainer(config, table, silo, normalisation, device)

    def play(self, config: Config, table: TableRef, checkpoint: Checkpoint) -> Simulated:
        return play(config, table, checkpoint)


METHOD = FlRsMethod()
