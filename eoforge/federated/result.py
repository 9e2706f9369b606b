"""A finished run as an ordinary run bundle, written without holding the model in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf import json_format

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.bundle import CARD, CONFIG, FORMAT, MANIFEST, METRICS, WEIGHTS, code_revision
from eoforge.errors import ConflictError
from eoforge.federated.store.chunk_store import ChunkStore
from eoforge.storage.addresses import join, normalise
from eoforge.storage.objects import ObjectStore


def write_result(objects: ChunkStore, run: pb.Run, parent_uri: str) -> str:
    """Writes the bundle of a run's newest model and returns its URI; the same run gives the same bytes.

    Raises:
        ConflictError: Another bundle lies where this run's belongs.
    """
    uri = join(normalise(parent_uri), run.run_id)
    store = ObjectStore(uri)
    model = objects.manifest(run.objects["model"])
    files = {CONFIG: _json(_config(run)), METRICS: _json(_metrics(run)), CARD: _card(run).encode()}
    entries = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in files.items()}
    weights = hashlib.sha256()
    for part in _chunks(objects, model):
        weights.update(part)
    entries[WEIGHTS] = {"sha256": weights.hexdigest(), "bytes": model.length}
    manifest = _json({"format": FORMAT, "files": entries})
    if not store.exists(MANIFEST):
        store.put_stream(WEIGHTS, _chunks(objects, model))
        for name, data in files.items():
            store.put(name, data)
        store.put_if_absent(MANIFEST, manifest)
    if store.get(MANIFEST) != manifest:
        raise ConflictError(f"{uri} already holds another bundle; remove it or set EOFORGE_BUNDLES_URI elsewhere")
    return uri


def _chunks(objects: ChunkStore, manifest: pb.Manifest) -> Iterator[bytes]:
    return (objects.chunk(digest) for digest in manifest.chunks)


def _config(run: pb.Run) -> dict[str, Any]:
    spec = run.spec
    given: dict[str, Any] = plain(spec.bundle_config)
    return {
        **given,
        "method": spec.method,
        "config": given.get("config", plain(spec.config)),
        "seed": spec.seed,
        "patches": given.get("patches"),
        "code_revision": code_revision(),
        "federation": {
            "run_id": run.run_id,
            "strategy": spec.strategy,
            "strategy_options": plain(spec.strategy_options),
            "rounds": len(run.history),
            "silos": sorted({silo for summary in run.history for silo in summary.silos}),
            "privacy": json_format.MessageToDict(spec.privacy, preserving_proto_field_name=True),
            "epsilon": run.epsilon,
        },
    }


def _metrics(run: pb.Run) -> dict[str, Any]:
    rounds = [
        {
            "round": summary.number,
            "updates": summary.updates,
            "bytes_up": summary.bytes_up,
            "training": dict(summary.training),
            "evaluation": dict(summary.evaluation),
        }
        for summary in run.history
    ]
    evaluated = [summary.evaluation for summary in run.history if summary.evaluation]
    return {**(dict(evaluated[-1]) if evaluated else {}), "epsilon": run.epsilon, "rounds": rounds}


def _card(run: pb.Run) -> str:
    spec, last = run.spec, dict(run.history[-1].evaluation) if run.history else {}
    figures = "\n".join(f"| {name} | {value:.6g} |" for name, value in sorted(last.items()))
    lines = [
        f"# {spec.method}, learned by federation",
        "",
        f"Run `{run.run_id}`: {len(run.history)} rounds of {spec.strategy}, from silos that kept their data.",
    ]
    if run.epsilon:
        lines.append(f"Differential privacy of silos: epsilon {run.epsilon:.4g}.")
    if figures:
        lines += ["", "| metric, last evaluation by the silos | value |", "| --- | --- |", figures]
    return "\n".join(lines) + "\n"


def plain(struct: Any) -> dict[str, Any]:
    """A protobuf Struct as JSON values; whole numbers become integers again, which Struct does not know."""
    value = _integers(json_format.MessageToDict(struct))
    return dict(value)


def _integers(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _integers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_integers(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()
