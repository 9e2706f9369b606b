"""Federated run of a pipeline step: starts the run and waits for its end.

The run belongs to the coordinator: a step that is started again finds the run by its name and continues to wait.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from eoforge.errors import EoforgeError
from pipelines.settings import FEDERATION_CREDENTIALS

if TYPE_CHECKING:
    from eoforge.api.federation.v1 import federation_pb2 as pb

ATTEMPTS = 60
"""Attempts of a call to an unreachable coordinator: with pauses of up to 5 s some minutes, as a rollout needs."""

log = structlog.get_logger("federate")


def federate(
    coordinator: str,
    run_id: str,
    method: str,
    preset: str,
    overrides: Mapping[str, str],
    statistics: str,
    *,
    min_silos: int,
    quorum: int = 0,
    deadline_minutes: float = 0.0,
    evaluate_every: int = 1,
) -> pb.Run:
    """Finished run; it is created unless it exists.

    Args:
        coordinator: ``HOST:PORT``.
        run_id: Id of the run.
        method: Name of a federated method.
        preset: Preset of its settings.
        overrides: Settings to change, ``rounds`` among them.
        statistics: Table whose band statistics all silos normalise by.
        min_silos: Least number of connected silos for a round to open.
        quorum: Least number of updates of a round; 0 for ``min_silos``.
        deadline_minutes: Time after which a round with a quorum is sealed; 0 for no deadline.
        evaluate_every: Rounds between two evaluations by the silos; 0 for no evaluation.

    Raises:
        EoforgeError: The run failed or was cancelled.
        RemoteError: The coordinator refuses the run, or is unreachable.
    """
    from eoforge.api.federation.v1 import federation_pb2 as pb
    from eoforge.client.federation import FederationClient
    from eoforge.methods.federated_launch import prepare, upload_model

    spec, model, roles = prepare(method, preset, overrides, None, statistics)
    spec.policy.min_silos, spec.policy.quorum, spec.policy.evaluate_every = min_silos, quorum, evaluate_every
    if deadline_minutes:
        spec.policy.deadline.FromTimedelta(dt.timedelta(minutes=deadline_minutes))
    with FederationClient(coordinator, attempts=ATTEMPTS, **credentials()) as client:
        upload_model(client, spec, model, roles)
        client.create_run(spec, run_id)
        for event in client.watch(run_id):
            if event.WhichOneof("event") == "round_closed":
                summary = event.round_closed.summary
                figures = {n: round(v, 4) for n, v in sorted({**summary.training, **summary.evaluation}.items())}
                log.info("round", run=run_id, round=summary.number, silos=len(summary.silos), **figures)
        run = client.run(run_id)
    if run.status != pb.RUN_STATUS_FINISHED:
        raise EoforgeError(f"run {run_id} ended as {pb.RunStatus.Name(run.status)}: {run.failure}")
    return run


def credentials() -> dict[str, Any]:
    """Credentials of the operator: the mounted certificate files, and the token of the environment."""
    folder = Path(os.environ.get("EOFORGE_FEDERATION_CREDENTIALS", FEDERATION_CREDENTIALS))
    files = {"ca_file": "ca.crt", "cert_file": "tls.crt", "key_file": "tls.key"}
    found = {option: str(folder / name) for option, name in files.items() if (folder / name).exists()}
    return {**found, "token": os.environ.get("EOFORGE_TOKEN")}
