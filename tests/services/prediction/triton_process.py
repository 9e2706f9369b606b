"""Triton's clients in a process of their own: their messages have the names of KServe's. GRPC HTTP RADAR.NPY."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http

MODEL, OUTPUTS = "eoforge-predict-s1", ("probabilities", "labels", "classes")


def asked(kit: Any, address: str, radar: Any) -> dict[str, Any]:
    """Outputs of the model by one of the two clients."""
    client = kit.InferenceServerClient(address)
    assert client.is_model_ready(MODEL)
    given = kit.InferInput("s1", list(radar.shape), "FP32")
    given.set_data_from_numpy(radar)
    answer = client.infer(MODEL, [given], outputs=[kit.InferRequestedOutput(name) for name in OUTPUTS])
    found = {name: answer.as_numpy(name) for name in OUTPUTS}
    client.close()
    found["classes"] = np.array([name.decode() if isinstance(name, bytes) else name for name in found["classes"]])
    return {name: array.tolist() for name, array in found.items()}


if __name__ == "__main__":
    grpc_address, http_address, path = sys.argv[1:]
    image = np.load(path)
    answers = {
        "grpc": asked(tritonclient.grpc, grpc_address, image),
        "http": asked(tritonclient.http, http_address, image),
    }
    print(json.dumps(answers))
