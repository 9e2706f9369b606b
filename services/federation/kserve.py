"""Open Inference Protocol V2: states of runs, for dashboards and gateways without the typed API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from kserve import InferRequest, InferResponse, Model

from eoforge.api.federation.v1 import federation_pb2 as pb
from services._runtime.errors import PermissionDenied
from services._runtime.oip.answers import response
from services._runtime.oip.tensors import input_texts, tensor
from services.federation.coordinator import Coordinator
from services.federation.identity import Identities, may_control

NAME = "eoforge-federation-runs"
MAX_RUNS = 100


class RunsModel(Model):
    """Model that maps names of runs to status, round, number of rounds and bundle, for permitted operators."""

    def __init__(self, coordinator: Coordinator, identities: Identities) -> None:
        super().__init__(NAME)
        self._coordinator, self._identities = coordinator, identities
        self.ready = True

    def get_input_types(self) -> list[dict[str, Any]]:
        """Name, type and shape of the input."""
        return [tensor("run_id", "BYTES", -1)]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Name, type and shape of each output."""
        return [
            tensor(
                "status", "BYTES", -1, range=", ".join(n.removeprefix("RUN_STATUS_") for n in pb.RunStatus.keys()[1:])
            ),
            tensor("round", "INT64", -1, range="0 to rounds"),
            tensor("rounds", "INT64", -1, range="1 or more"),
            tensor("bundle_uri", "BYTES", -1, range="an address; empty until the run has finished"),
        ]

    async def predict(
        self, payload: InferRequest, headers: Mapping[str, str] | None = None, response_headers: Any = None
    ) -> InferResponse:
        """State of each run.

        Raises:
            UsageError: The input is missing.
            LimitExceeded: Too many runs are asked for.
            NotFound: A run does not exist.
            PermissionDenied: A run belongs to others, or the caller is no operator.
            Unauthenticated: The caller's certificate was revoked.
        """
        names = input_texts(payload, "run_id", MAX_RUNS)
        operator = self._identities.operator()
        runs = [await self._coordinator.read(name) for name in names]
        if not all(may_control(operator, run) for run in runs):
            raise PermissionDenied("one of the runs belongs to others")
        columns: dict[str, np.ndarray[Any, Any]] = {
            "status": np.array([pb.RunStatus.Name(r.status).removeprefix("RUN_STATUS_") for r in runs], dtype=object),
            "round": np.array([r.round.number for r in runs], dtype=np.int64),
            "rounds": np.array([r.spec.policy.rounds for r in runs], dtype=np.int64),
            "bundle_uri": np.array([r.bundle_uri for r in runs], dtype=object),
        }
        return response(NAME, payload, columns)
