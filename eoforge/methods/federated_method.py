"""Base of the federated methods: training by simulation, and encoders and classifiers from bundles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from eoforge.bundle import Bundle, load_bundle
from eoforge.config import build_config
from eoforge.errors import NotFound, UsageError
from eoforge.federated.training.checkpoint import Checkpoint
from eoforge.federated.training.config import FederatedConfig
from eoforge.federated.training.outcome import write_run
from eoforge.federated.training.setup import TrainingSetup
from eoforge.federated.training.simulation import play
from eoforge.index.encoder import Encoder
from eoforge.methods import encoding
from eoforge.methods.run_files import run_name
from eoforge.nn.build import choose_device
from eoforge.nn.classifier import Network
from eoforge.storage.addresses import TableRef, normalise


class FederatedMethod(TrainingSetup):
    """Base of a :class:`eoforge.methods.Method` whose training is federated.

    The network of :meth:`build` has ``features``, the length of its embeddings, and ``encode(image_BCSS, modality)``,
    which gives hash logits ``[B, K]`` and unit embeddings ``[B, D]``.
    """

    name: str
    config_type: type[Any]

    def config(self, preset: str, overrides: Mapping[str, str], file: str | None = None) -> Any:
        return build_config(self.config_type, preset, overrides, file)

    def train(self, data: TableRef, out: str, config: Any, *, resume: bool = True) -> Bundle:
        if not isinstance(config, self.config_type):
            raise UsageError(f"{self.name} trains with its own Config; got {type(config).__name__}")
        table = TableRef(normalise(data.uri), data.version).pinned()
        checkpoint = Checkpoint(normalise(out), run_name(self.name, config.as_dict(), table))
        if not resume:
            checkpoint.clear()
        elif (uri := checkpoint.finished()) is not None:
            try:
                return load_bundle(uri)
            except NotFound:
                checkpoint.clear()  # the bundle was deleted: train again
        run = play(self, config, table, checkpoint)
        bundle = write_run(self.name, config, self.build(config).features, run, table, out)
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
        """Trained network of ``bundle`` in evaluation mode, to predict labels.

        Raises:
            BundleError: As :meth:`load`.
        """
        network, _ = self._network(bundle, None)
        encoding.load_weights(network, bundle)
        classifier: Network = network.to(choose_device(device)).eval()
        return classifier

    def _network(self, bundle: Bundle, seed: int | None) -> tuple[Any, Any]:
        encoding.require_method(bundle, self.name)
        config = encoding.settings_of(bundle, self.config_type, self.name)
        if seed is not None:
            config = replace(config, seed=seed)
        return self.build(config), config

    def _encoder(self, bundle: Bundle, network: Any, config: FederatedConfig, device: str | None) -> Encoder:
        where = choose_device(device)
        facts = {"bits": config.bits, "embedding_dim": network.features, "interpolation": config.interpolation}
        encoding.require_facts(bundle, facts)
        bands = encoding.bands_of(bundle, config.sensor_bands)
        prepare = {m: p.to(where) for m, p in encoding.prepares(bundle, bands, config.size).items()}
        return encoding.HashEncoder(network.to(where).eval(), prepare, config.bits, network.features, where)
