"""FL-RS for the command line, the pipelines and the services: one process plays coordinator and silos."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from eoforge.bundle import Bundle, load_bundle
from eoforge.data.store import TableRef, normalise, open_table
from eoforge.errors import BundleError, NotFound, UsageError
from eoforge.index.encoder import Encoder
from eoforge.methods import encoding
from eoforge.methods.config import build_config, from_dict
from eoforge.methods.fl_rs.checkpoint import Checkpoint
from eoforge.methods.fl_rs.config import Config
from eoforge.methods.fl_rs.federate import (
    Outcome,
    build_network,
    write_run,
)
from eoforge.methods.fl_rs.model import Classifier
from eoforge.methods.fl_rs.simulation import play
from eoforge.methods.run_files import run_name

SKEW = "skew.json"


class FlRsMethod:
    """See :class:`eoforge.methods.Method`."""

    name = "fl_rs"
    config_type: type[Any] = Config

    def config(self, preset: str, overrides: Mapping[str, str], file: str | None = None) -> Config:
        return build_config(Config, preset, overrides, file)

    def train(self, data: TableRef, out: str, config: Any, *, resume: bool = True) -> Bundle:
        if not isinstance(config, Config):
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
        played = play(config, table, checkpoint)
        outcome = Outcome(
            played.federation.model(),
            played.metrics(),
            {s.id: s.examples for s in played.silos},
            played.normalisation,
            table,
        )
        skew = json.dumps(played.skew, indent=2) + "\n"
        bundle = write_run(self.name, config, outcome, out, lambda: {SKEW: skew.encode()})
        checkpoint.finish(bundle.uri)
        return bundle

    def load(self, bundle: Bundle, device: str | None = None) -> Encoder:
        network, config = self._network(bundle, None)
        encoding.load_weights(network, bundle)
        return self._encoder(bundle, network, config, device)

    def untrained(self, bundle: Bundle, seed: int | None = None, device: str | None = None) -> Encoder:
        network, config = self._network(bundle, seed)
        return self._encoder(bundle, network, config, device)

    def _network(self, bundle: Bundle, seed: int | None) -> tuple[Classifier, Config]:
        encoding.require_method(bundle, self.name)
        try:
            values = bundle.config["config"]
            config = from_dict(Config, values if seed is None else {**values, "seed": seed})
        except (UsageError, AttributeError, TypeError) as error:
            raise BundleError(f"{bundle.uri}: its settings are none of {self.name}: {error}") from error
        return build_network(config), config

    def _encoder(self, bundle: Bundle, network: Classifier, config: Config, device: str | None) -> Encoder:
        where = encoding.choose_device(device)
        facts = {"bits": config.bits, "embedding_dim": network.features, "interpolation": config.interpolation}
        for key, value in facts.items():
            if bundle.config[key] != value:
                raise BundleError(
                    f"{bundle.uri}: config.json says {key} {bundle.config[key]!r}, its settings {value!r}"
                )
        bands = encoding.bands_of(bundle, {config.modality: config.bands})
        prepare = {m: p.to(where) for m, p in encoding.prepares(bundle, bands, config.size).items()}
        return encoding.HashEncoder(network.to(where).eval(), prepare, config.bits, network.features, where)


METHOD = FlRsMethod()
