"""Local run of a pipeline by kfp.local, with the same steps as on a cluster.

    python -m pipelines.run_local ingest --root work/kfp archive=work/archive table=work/patches.lance

kfp.local runs in a child process: its settings are global, and it re-indents standard output from several threads and
never restores it. The child writes its result to a file; the parent streams the log.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eoforge import errors
from eoforge.errors import EoforgeError, UsageError
from pipelines.definitions import PIPELINES

ANSI = re.compile(r"\x1b\[[0-9;]*m")
_EXCEPTION = re.compile(r"(?P<kind>[A-Za-z_][\w.]*)(: (?P<message>.*))?")
_STEP_FAILED = re.compile(r"Task '(?P<step>[^']+)' finished with status FAILURE")
_MAX_MESSAGE = 4000


@dataclass(frozen=True)
class LocalArtifact:
    """Artifact of a step: a page, metrics or lineage.

    Attributes:
        step: Step that wrote it.
        name: Name of the output.
        kind: ``HTML``, ``Markdown``, ``Metrics`` or ``Artifact``.
        path: File of the artifact; metrics have their numbers in ``metadata`` instead.
        metadata: Logged numbers, or facts about a table or bundle.
    """

    step: str
    name: str
    kind: str
    path: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class LocalRun:
    """Result of a run.

    Attributes:
        outputs: Outputs of the pipeline; artifacts as paths.
        artifacts: All artifacts of all steps.
        log: Path of the log.
    """

    outputs: dict[str, Any]
    artifacts: list[LocalArtifact]
    log: str

    def find(self, step: str, name: str) -> LocalArtifact:
        """Artifact ``name`` of ``step``.

        Raises:
            UsageError: The run has no such artifact.
        """
        for artifact in self.artifacts:
            if (artifact.step, artifact.name) == (step, name):
                return artifact
        known = ", ".join(sorted(f"{a.step}/{a.name}" for a in self.artifacts))
        raise UsageError(f"no artifact {step}/{name} in this run; expected one of: {known or 'none'}")


def run_local(
    pipeline: str, root: str | Path, params: Mapping[str, Any], *, echo: Callable[[str], None] | None = None
) -> LocalRun:
    """Result of ``pipeline`` after its end.

    Args:
        pipeline: One of ``PIPELINES``.
        root: Folder for logs and artifacts, with one subfolder per run.
        params: Parameters of the pipeline.
        echo: Function called with each line of the log.

    Raises:
        EoforgeError: A step failed; the message gives step and reason, the class is that of the error of the step.
        UsageError: The pipeline or a parameter is unknown, or one is missing.
    """
    if pipeline not in PIPELINES:
        raise UsageError(f"unknown pipeline {pipeline!r}; expected one of {', '.join(PIPELINES)}")
    base = Path(root).absolute()
    base.mkdir(parents=True, exist_ok=True)
    folder = _new_folder(base, pipeline)
    request = {"pipeline": pipeline, "params": dict(params), "folder": str(folder)}
    (folder / "request.json").write_text(json.dumps(request, indent=2))
    package_root = str(Path(__file__).resolve().parents[1])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([package_root, *_paths()]), "PYTHONUNBUFFERED": "1"}
    failure = _FailureReader()
    with (
        (folder / "run.log").open("w") as log,
        # Its own session, so that no step outlives an interrupted run.
        subprocess.Popen(
            [sys.executable, "-m", "pipelines.local_child", str(folder / "request.json")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=env,
            start_new_session=True,
        ) as child,
    ):
        try:
            for line in child.stdout or ():
                log.write(line)
                failure.read(line)
                if echo:
                    echo(line.rstrip("\n"))
            child.wait()
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            raise
    result_file = folder / "result.json"
    result: dict[str, Any] = {"error": f"exit code {child.returncode}"}
    if result_file.exists():
        result = json.loads(result_file.read_text())
    if "error" in result:
        raise failure.error(pipeline, result, folder / "run.log")
    return LocalRun(result["outputs"], [LocalArtifact(**a) for a in result["artifacts"]], str(folder / "run.log"))


def _paths() -> list[str]:
    return [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]


def _new_folder(base: Path, pipeline: str) -> Path:
    """Next numbered folder; a concurrent run in the same root may take a number first."""
    number = sum(1 for _ in base.glob(f"{pipeline}-*"))
    while True:
        folder = base / f"{pipeline}-{number:03d}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


class _FailureReader:
    """Parser of the log for the first failed step and its exception."""

    def __init__(self) -> None:
        self._lines: list[str] | None = None
        self._indent = 0
        self._last: tuple[str, str] | None = None
        self.step: str | None = None
        self.exception: tuple[str, str] | None = None

    def read(self, line: str) -> None:
        """Parses the next line of the log."""
        text = ANSI.sub("", line).rstrip()
        stripped = text.lstrip()
        indent = len(text) - len(stripped)
        if stripped == "Traceback (most recent call last):":
            self._lines, self._indent = [], indent
        elif self._lines is not None:
            self._inside(stripped, indent)
        if (failed := _STEP_FAILED.search(text)) and self.step is None:
            self.step, self.exception = failed["step"], self._last

    def _inside(self, stripped: str, indent: int) -> None:
        if not stripped:
            self._lines = None
        elif self._lines:  # further lines of a message
            self._lines.append(stripped)
        elif indent <= self._indent and (found := _EXCEPTION.fullmatch(stripped)):
            self._lines = [found["message"] or found["kind"]]
            kind = found["kind"]
            self._last = (kind, "")
        if self._lines and self._last:
            self._last = (self._last[0], "\n".join(self._lines))

    def error(self, pipeline: str, result: Mapping[str, Any], log: Path) -> EoforgeError:
        """Error of the run."""
        kind = getattr(errors, str(result.get("kind", "")), None)
        step, detail = self.step, str(result["error"])
        if step and self.exception:
            name, detail = self.exception
            kind = getattr(errors, name.removeprefix("eoforge.errors."), None)
        where = f"step {step} of pipeline {pipeline}" if step else f"pipeline {pipeline}"
        chosen = kind if isinstance(kind, type) and issubclass(kind, EoforgeError) else EoforgeError
        return chosen(f"{where} failed: {detail[:_MAX_MESSAGE]} (log: {log})")


def main(argv: list[str] | None = None) -> int:
    """Command line of a local run; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.run_local", description="Run a pipeline locally.")
    parser.add_argument("pipeline", choices=PIPELINES)
    parser.add_argument("params", nargs="*", help="name=value; numbers, lists and booleans as JSON")
    parser.add_argument("--root", default="kfp-runs", help="folder for logs and artifacts")
    args = parser.parse_intermixed_args(argv)
    try:
        run = run_local(
            args.pipeline, args.root, dict(map(_param, args.params)), echo=lambda line: print(line, file=sys.stderr)
        )
    except EoforgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(asdict(run), indent=2))
    return 0


def _param(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"expected a parameter as name=value; got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


if __name__ == "__main__":
    sys.exit(main())
