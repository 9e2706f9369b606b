"""Demo of the main job, end to end, on one machine.

The parts are the production parts at a small size: an archive in the official layout, the Kubeflow pipeline
``archive_to_service`` run by ``kfp.local``, a retrieval service in its own process, and queries over gRPC. A second run
resumes where the first stopped: tables, runs and codes are kept.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from eoforge.cli.output import say
from eoforge.errors import DataRefused, UsageError

if TYPE_CHECKING:
    from pipelines.run_local import LocalRun

SEAWEEDFS = "seaweedfs"
"""Value of ``--store`` that starts an S3 server for the demo."""


@dataclass
class Stages:
    """Wall time of each stage, in order."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Prints the name of a stage and measures its wall time."""
        say(f"[bold]{name}[/]")
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 1)


def run_demo(
    out: Path,
    *,
    archive: str | None = None,
    store: str | None = None,
    method: str = "ss_cm_rsir",
    patches: int = 2000,
    seed: int = 0,
    overrides: Mapping[str, str],
    serve_port: int | None = None,
) -> dict[str, Any]:
    """Runs the demo and leaves ``report.html`` in ``out``.

    Args:
        out: Folder for archive, report and, without ``store``, tables and runs.
        archive: Archive to use instead of a synthetic archive.
        store: Local folder or ``s3://`` URI for tables and runs; ``seaweedfs`` starts a server for the demo.
        method: Method to train, with its tiny preset.
        patches: Size of the synthetic archive.
        seed: Seed of the synthetic archive.
        overrides: Configuration overrides of the method.
        serve_port: Port of a web console that then stays up, with its retrieval service, until Ctrl-C; None for none.

    Returns:
        Flat figures: sizes, metrics against the untrained network and random codes, seconds per stage, the report.

    Raises:
        EoforgeError: A stage failed; the message names the stage and a remedy.
    """
    from eoforge.methods import get_method

    # Invalid input is refused here, not after minutes of ingestion.
    get_method(method).config("tiny", overrides)
    if archive is not None:
        from eoforge.data.archives.open import open_archive

        open_archive(archive)
    out = out.expanduser().absolute()
    out.mkdir(parents=True, exist_ok=True)
    with _object_store(out, store) as root:
        run, figures = _run(out, root, archive, method, patches, seed, overrides)
        if serve_port is None:
            say("see it in the browser: the same command with [bold]--serve[/] (make demo DEMO_ARGS=--serve)")
        else:
            _serve(out, root, run, serve_port)
        return figures


def _serve(out: Path, root: str, run: LocalRun, port: int) -> None:
    """Keeps the retrieval service of the demo and a web console up until Ctrl-C."""
    from eoforge.cli.console import serve_console
    from eoforge.cli.demo.service import running_service
    from eoforge.storage.addresses import join

    with running_service(run.outputs["codes_table"], out / "service.log") as address:
        serve_console(
            retrieval_target=address,
            patches_uri=join(root, "patches.lance"),
            runs_uri=join(root, "runs"),
            annotations_uri=join(root, "annotations"),
            rest_port=port,
        )


def _run(
    out: Path, root: str, archive: str | None, method: str, patches: int, seed: int, overrides: Mapping[str, str]
) -> tuple[LocalRun, dict[str, Any]]:
    from eoforge.cli.demo.compression_page import write_compression_page
    from eoforge.cli.demo.report import write_report
    from eoforge.cli.demo.service import query_service, running_service
    from eoforge.storage.addresses import TableRef, join
    from pipelines.run_local import run_local

    stages = Stages()
    if archive is None:
        with stages.stage("synthetic archive in the official layout"):
            archive = synthetic_archive(out / "archive", patches, seed)
    params = {
        "archive": archive,
        "table": join(root, "patches.lance"),
        "runs": join(root, "runs"),
        "codes": join(root, "codes-{bundle}.lance"),
        "method": method,
        "preset": "tiny",
        "overrides": [f"{key}={value}" for key, value in overrides.items()],
    }
    with stages.stage("Kubeflow pipeline: ingest, train, index, evaluate"):
        run = run_local("archive_to_service", out / "pipeline", params)
    with stages.stage("retrieval service"), running_service(run.outputs["codes_table"], out / "service.log") as address:
        answers = query_service(address, seed)
    with stages.stage("compression at three qualities"):
        compressed = write_compression_page(out, TableRef(str(params["table"]), int(run.outputs["version"])), seed)
    result = write_report(out, run, answers, stages.seconds, compressed)
    say(f"open [bold]{escape(str(out / 'report.html'))}[/]")
    return run, result


@contextmanager
def _object_store(out: Path, store: str | None) -> Iterator[str]:
    """Root of tables and runs; an object store is probed before the first commit."""
    from eoforge.errors import StoreError
    from eoforge.storage.addresses import is_s3, normalise
    from eoforge.storage.doctor import probe_store

    if store == SEAWEEDFS:
        from eoforge.storage.seaweed import seaweedfs

        with seaweedfs(out / "seaweedfs") as server:
            previous = {key: os.environ.get(key) for key in server.env}
            os.environ.update(server.env)  # child processes of the demo read the store from here
            try:
                with _object_store(out, server.uri("demo")) as root:
                    yield root
            finally:
                for key, value in previous.items():
                    os.environ.pop(key, None) if value is None else os.environ.__setitem__(key, value)
        return
    root = normalise(store) if store else str(out / "store")
    if is_s3(root):
        failed = [check for check in probe_store(root) if not check.ok]
        if failed:
            raise StoreError("; ".join(map(str, failed)))
    yield root


def synthetic_archive(folder: Path, patches: int, seed: int) -> str:
    """Folder of a synthetic archive; an archive of an earlier run with equal size and seed is kept."""
    from eoforge.data.synthetic.archive import generate_archive

    # The marker is written after the archive: a folder without a marker is incomplete.
    marker = folder.with_name(folder.name + f".{patches}-{seed}.complete")
    if marker.exists() and folder.is_dir():
        return str(folder)
    if folder.is_dir() and any(folder.iterdir()):
        markers = list(folder.parent.glob(folder.name + ".*.complete"))
        if markers:
            raise UsageError(
                f"{folder} holds another archive ({markers[0].name}); give --out another folder or remove this one"
            )
        raise DataRefused(f"{folder} is not empty and was not finished by the demo; remove it and run the demo again")
    generate_archive(str(folder), patches, seed, workers=os.cpu_count() or 1)
    marker.touch()
    return str(folder)
