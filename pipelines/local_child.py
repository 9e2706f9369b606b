"""Child process of ``pipelines.run_local``: isolates the global settings of kfp.local."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kfp import local

from eoforge.errors import UsageError
from pipelines.definitions import all_pipelines
from pipelines.run_local import ANSI, LocalArtifact


def main(request_file: Path) -> int:
    """Run of the pipeline of ``request_file``, with the result in ``result.json`` beside it; returns the exit code."""
    request = json.loads(request_file.read_text())
    folder = Path(request["folder"])
    # kfp warns for every step that resource limits and GPUs have no effect locally.
    warnings.filterwarnings("ignore", message=".*no effect in the current local runner.*")
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(folder / "steps"), raise_on_error=True)
    pipeline = all_pipelines()[request["pipeline"]]
    _remove_retries(pipeline.pipeline_spec)
    try:
        _check_params(pipeline, request["params"])
        outputs = {name: _plain(value) for name, value in pipeline(**request["params"]).outputs.items()}
    except Exception as error:  # every error is passed to the parent, which raises it
        result: dict[str, Any] = {"error": ANSI.sub("", str(error)), "kind": type(error).__name__}
    else:
        result = {
            "outputs": outputs,
            "artifacts": [asdict(a) for a in _artifacts(pipeline.pipeline_spec, folder / "steps")],
        }
    (folder / "result.json").write_text(json.dumps(result, indent=2))
    return 1 if "error" in result else 0


def _check_params(pipeline: Any, params: Mapping[str, Any]) -> None:
    inputs = pipeline.component_spec.inputs or {}
    unknown = sorted(set(params) - set(inputs))
    missing = sorted(name for name, spec in inputs.items() if not spec.optional and name not in params)
    if unknown or missing:
        raise UsageError(
            f"pipeline {pipeline.name} takes {', '.join(inputs)}; "
            f"unknown: {', '.join(unknown) or 'none'}, missing: {', '.join(missing) or 'none'}"
        )


def _plain(value: Any) -> Any:
    return value.path if hasattr(value, "schema_title") else value


def _artifacts(spec: Any, steps: Path) -> Iterator[LocalArtifact]:
    """Artifacts below ``steps``; only the specification of the pipeline has their kinds."""
    component_of = {name: task.component_ref.name for name, task in _tasks(spec)}
    for file in sorted(steps.rglob("executor_output.json")):
        step = file.parent.name
        types = spec.components[component_of[step]].output_definitions.artifacts
        for name, entry in json.loads(file.read_text()).get("artifacts", {}).items():
            kind = types[name].artifact_type.schema_title.removeprefix("system.")
            for artifact in entry["artifacts"]:
                yield LocalArtifact(step, name, kind, artifact["uri"], artifact.get("metadata", {}))


def _tasks(spec: Any) -> Iterator[tuple[str, Any]]:
    for dag in (spec.root.dag, *(c.dag for c in spec.components.values() if c.HasField("dag"))):
        yield from dag.tasks.items()


def _remove_retries(spec: Any) -> None:
    """Removes the retry policies, which serve restarts of a store or node on a cluster."""
    for _, task in _tasks(spec):
        task.ClearField("retry_policy")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
