"""Requests of Triton's clients; a process of its own, because their generated messages have the names of KServe's.

    python -m tests.services._runtime.oip.triton_process GRPC HTTP PATCH_ID SENSOR_IMAGE.npy

Prints one JSON object with what came back.
"""

from __future__ import annotations

import json
import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

ENCODE, SEARCH = "eoforge-retrieval-encode-s1", "eoforge-retrieval-search-s2"
PARAMETERS = {"query_modality": "s1"}


def image_input(kit: Any, image: Any, **options: Any) -> list[Any]:
    given = kit.InferInput("s1", list(image.shape), "FP32")
    given.set_data_from_numpy(image, **options)
    return [given]


def patch_input(kit: Any, patch_id: str) -> list[Any]:
    given = kit.InferInput("patch_id", [1], "BYTES")
    given.set_data_from_numpy(np.array([patch_id], dtype=object))
    return [given]


def texts(array: Any) -> list[str]:
    return [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel()]


def about(client: Any, **options: Any) -> dict[str, Any]:
    """Health, metadata and the index of the repository, by one of the clients."""
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model": client.is_model_ready(ENCODE),
        "version": client.is_model_ready(ENCODE, "1"),
        "other version": ready(client, "2"),
        "server": client.get_server_metadata(**options)["name"],
        "inputs": client.get_model_metadata(ENCODE, **options)["inputs"],
        "index": client.get_model_repository_index(**options),
    }


def ready(client: Any, version: str) -> bool:
    try:
        return bool(client.is_model_ready(ENCODE, version))
    except InferenceServerException as error:  # by gRPC, NOT_FOUND
        if "has version 1" not in str(error):
            raise
        return False


def by_http(address: str, patch_id: str, image: Any) -> dict[str, Any]:
    kit = tritonclient.http
    with kit.InferenceServerClient(address) as client:
        found = about(client)
        encoded = client.infer(
            ENCODE,
            image_input(kit, image),
            outputs=[kit.InferRequestedOutput("code", binary_data=False), kit.InferRequestedOutput("embedding")],
            request_compression_algorithm="gzip",
            response_compression_algorithm="gzip",
        )
        found["outputs"] = [output["name"] for output in encoded.get_response()["outputs"]]
        found["code"] = encoded.as_numpy("code").tolist()
        found["embedding"] = list(encoded.as_numpy("embedding").shape)
        as_json = client.infer(
            ENCODE,
            image_input(kit, image, binary_data=False),
            model_version="1",
            outputs=[kit.InferRequestedOutput("code", binary_data=False)],
            request_compression_algorithm="deflate",
            response_compression_algorithm="deflate",
        )
        found["json"] = as_json.as_numpy("code").tolist()
        hits = client.infer(SEARCH, patch_input(kit, patch_id), parameters=PARAMETERS, request_id="mine")
        found["hits"], found["id"] = texts(hits.as_numpy("patch_id")), hits.get_response()["id"]
        found["refused"] = refusal(lambda: client.infer(ENCODE, image_input(kit, image[:, :1])))
        found["unload"] = refusal(lambda: client.unload_model(ENCODE))
    return found


def by_grpc(address: str, patch_id: str, image: Any) -> dict[str, Any]:
    kit = tritonclient.grpc
    with kit.InferenceServerClient(address) as client:
        found = about(client, as_json=True)
        asked = [kit.InferRequestedOutput("code")]
        encoded = client.infer(ENCODE, image_input(kit, image), outputs=asked, model_version="1", request_id="mine")
        found["outputs"] = [output.name for output in encoded.get_response().outputs]
        found["code"], found["id"] = encoded.as_numpy("code").tolist(), encoded.get_response().id
        hits = client.infer(SEARCH, patch_input(kit, patch_id), parameters=PARAMETERS)
        found["hits"] = texts(hits.as_numpy("patch_id"))
        found["refused"] = refusal(lambda: client.infer(ENCODE, image_input(kit, image[:, :1])))
        found["unload"] = refusal(lambda: client.unload_model(ENCODE))
        answers: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer(SEARCH, patch_input(kit, patch_id), parameters=PARAMETERS, request_id="1")
        client.async_stream_infer(ENCODE, image_input(kit, image[:, :1]), request_id="2")
        client.async_stream_infer(ENCODE, image_input(kit, image), request_id="3")
        came = [answers.get(timeout=60) for _ in range(3)]
        client.stop_stream()
    found["stream"] = [
        texts(came[0][0].as_numpy("patch_id")),
        came[1][1].message(),
        came[2][0].as_numpy("code").tolist(),
    ]
    found["stream ids"] = [came[0][0].get_response().id, came[2][0].get_response().id]
    return found


def refusal(call: Any) -> str:
    try:
        call()
    except InferenceServerException as error:
        return str(error)
    return "answered"


def main() -> None:
    grpc_address, http_address, patch_id, path = sys.argv[1:]
    image = np.load(path)
    found = {"http": by_http(http_address, patch_id, image), "grpc": by_grpc(grpc_address, patch_id, image)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
