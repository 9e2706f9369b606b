"""Bundle of a finished federated run: weights, facts for loading, metrics and the model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from eoforge.bundle import Bundle, code_revision, model_card, write_bundle
from eoforge.federated.training.config import FederatedConfig
from eoforge.federated.training.data import Normalisation
from eoforge.federated.training.simulation import Simulated
from eoforge.report import markdown_code
from eoforge.storage.addresses import TableRef

SKEW = "skew.json"
_CARD = (
    "Multi-label land-cover classification, trained over {silos} silos that kept their patches. Codes "
    "for retrieval are signs of a fixed projection of the standardised representation."
)


def write_run(
    method: str,
    config: FederatedConfig,
    embedding_dim: int,
    run: Simulated,
    table: TableRef,
    out: str,
    facts: Mapping[str, Any],
) -> Bundle:
    """Bundle of a run, to be indexed and served like any other.

    Args:
        method: Name of the method that can load it.
        config: Settings of the run.
        embedding_dim: Length of the network's embeddings.
        run: Results of the run.
        table: Table of the training patches, at a version.
        out: Folder of bundles.
        facts: Further entries of ``config.json``, such as the calibration.
    """
    described = {
        "method": method,
        **network_facts(config, embedding_dim, run.normalisation),
        "seed": config.seed,
        "patches": {"uri": table.uri, "version": table.version},
        "silos": {silo.id: silo.examples for silo in run.silos},
        **facts,
    }
    metrics = run.metrics()
    return write_bundle(
        out,
        weights={n: torch.from_numpy(np.array(a)) for n, a in run.federation.model().items()},
        config=described,
        metrics=metrics,
        readme=_card(method, config, metrics, run, table),
        extra_files={SKEW: (json.dumps(run.skew, indent=2) + "\n").encode()},
    )


def network_facts(config: FederatedConfig, embedding_dim: int, normalisation: Normalisation) -> dict[str, Any]:
    """Facts of a bundle that loading its network needs, for simulations and for runs on the service."""
    return {
        "config": config.as_dict(),
        "bands": {sensor: list(names) for sensor, names in config.sensor_bands.items()},
        "normalisation": {band: list(values) for band, values in normalisation.items()},
        "interpolation": config.interpolation,
        "bits": config.bits,
        "embedding_dim": embedding_dim,
        "code_revision": code_revision(),
    }


def _card(method: str, config: FederatedConfig, metrics: dict[str, Any], run: Simulated, table: TableRef) -> str:
    return model_card(
        method,
        _CARD.format(silos=len(run.silos)),
        trained_on=f"the `train` split of {markdown_code(table.uri)} at version {table.version}",
        bands=config.sensor_bands,
        measured="`validation_...` and `test_...` are of those splits of the same countries and months.",
        figures=metrics,
        silos={silo.id: silo.examples for silo in run.silos},
        settings=config.as_dict(),
    )
