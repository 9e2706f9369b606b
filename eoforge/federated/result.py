"""Bundle of a finished federated run, written without the model in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf import json_format

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.bundle import code_revision, model_card, store_bundle
from eoforge.federated.store.chunk_store import ChunkStore
from eoforge.report import markdown


def write_result(store: ChunkStore, run: pb.Run, parent_uri: str) -> str:
    """Writes the bundle of a run's newest model and returns its URI; equal runs give equal bytes.

    Raises:
        ConflictError: A different bundle has the name of the run already.
        LimitExceeded: The model is larger than the weights of a bundle may be.
    """
    model = store.manifest(run.objects["model"])

    def weights() -> Iterator[bytes]:
        return (store.chunk(digest) for digest in model.chunks)

    # No table is tagged: ``patches`` comes from an operator's message, which must not make the coordinator open it.
    return store_bundle(parent_uri, weights, _config(run), _metrics(run), _card(run), run.run_id)


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
    rounds = f"{len(run.history)} rounds of {markdown(spec.strategy)}"
    opening = f"Run `{run.run_id}`: {rounds}, from silos that kept their data."
    if run.epsilon:
        opening += f"\nDifferential privacy of silos: epsilon {run.epsilon:.4g}."
    figures = {name: f"{value:.6g}" for name, value in sorted(last.items())}
    measured = "Of the last evaluation by the silos."
    return model_card(f"{spec.method}, learned by federation", opening, measured=measured, figures=figures)


def plain(struct: Any) -> dict[str, Any]:
    """JSON values of a protobuf Struct; whole numbers become integers again, which a Struct does not have."""
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
