"""Bundle of a finished federated run: weights, facts for loading, metrics and the model card."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

from eoforge.bundle import Bundle, code_revision, write_bundle
from eoforge.federated.training.config import FederatedConfig
from eoforge.federated.training.data import Normalisation
from eoforge.federated.training.simulation import Simulated
from eoforge.storage.addresses import TableRef

SKEW = "skew.json"
_CARD = (
    "Multi-label land-cover classification, trained over {silos} silos that kept their patches. Codes "
    "for retrieval are signs of a fixed projection of the standardised representation."
)


def write_run(
    method: str, config: FederatedConfig, embedding_dim: int, run: Simulated, table: TableRef, out: str
) -> Bundle:
    """Bundle of a run, to be indexed and served like any other.

    Args:
        method: Name of the method that can load it.
        config: Settings of the run.
        embedding_dim: Length of the network's embeddings.
        run: Results of the run.
        table: Table of the training patches, at a version.
        out: Folder of bundles.
    """
    facts = {
        "method": method,
        **network_facts(config, embedding_dim, run.normalisation),
        "seed": config.seed,
        "patches": {"uri": table.uri, "version": table.version},
        "silos": {silo.id: silo.examples for silo in run.silos},
    }
    metrics = run.metrics()
    return write_bundle(
        out,
        weights={n: torch.from_numpy(np.array(a)) for n, a in run.federation.model().items()},
        config=facts,
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
    scalars = {k: v for k, v in metrics.items() if isinstance(v, int | float | str)}
    figures = "\n".join(f"| {k} | {round(v, 4) if isinstance(v, float) else v} |" for k, v in scalars.items())
    silos = "\n".join(f"| {silo.id} | {silo.examples} |" for silo in run.silos)
    settings = "\n".join(f"| {k} | {v} |" for k, v in config.as_dict().items())
    inputs = "\n".join(f"- {sensor}: {', '.join(names)}" for sensor, names in config.sensor_bands.items())
    return (
        f"# {method}\n\n{_CARD.format(silos=len(run.silos))}\n\n"
        f"Trained on the `train` split of `{table.uri}` at version {table.version} by code revision "
        f"`{code_revision()}`.\n\n"
        f"## Input\n\nBands in this order, on their native grids, normalised as `config.json` says:\n\n{inputs}\n\n"
        f"## Figures\n\n`validation_...` and `test_...` are of those splits of the same places. They say nothing about "
        f"other archives.\n\n| figure | value |\n| --- | --- |\n{figures}\n\n"
        f"## Silos\n\n| silo | patches |\n| --- | --- |\n{silos}\n\n"
        f"## Settings\n\n| setting | value |\n| --- | --- |\n{settings}\n"
    )
