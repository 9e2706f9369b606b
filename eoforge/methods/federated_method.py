"""Base of the federated methods: training by simulation, and encoders and classifiers from bundles."""

from __future__ import annotations

from typing import Any

from eoforge.bundle import Bundle, load_bundle
from eoforge.errors import NotFound
from eoforge.federated.training.checkpoint import Checkpoint
from eoforge.federated.training.outcome import write_run
from eoforge.federated.training.setup import TrainingSetup
from eoforge.federated.training.simulation import play
from eoforge.methods.base import HashMethod
from eoforge.methods.calibration import Calibration
from eoforge.methods.run_files import run_name
from eoforge.nn.build import choose_device
from eoforge.nn.classifier import Network
from eoforge.storage.addresses import TableRef, normalise


class FederatedMethod(TrainingSetup, HashMethod):
    """Base of a :class:`eoforge.methods.Method` whose training is federated."""

    def train(self, data: TableRef, out: str, config: Any, *, resume: bool = True) -> Bundle:
        self.require_own(config)
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
        calibration = (
            {} if run.validation is None else Calibration.fit(*(part.cpu() for part in run.validation)).facts()
        )
        bundle = write_run(self.name, config, self.build(config).features, run, table, out, calibration)
        checkpoint.finish(bundle.uri)
        return bundle

    def classifier(self, bundle: Bundle, device: str | None = None) -> Network:
        """Trained network of ``bundle`` in evaluation mode, to predict labels.

        Raises:
            BundleError: As :meth:`load`.
        """
        network, _ = self._trained(bundle)
        classifier: Network = network.to(choose_device(device)).eval()
        return classifier
