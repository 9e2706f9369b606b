"""Uploads compiled pipelines to Kubeflow Pipelines: ``python -m pipelines.upload --host URL --version V FOLDER``.

What the chart's job does after installing and upgrading. A pipeline that is there gets a further version, a version
that is there is left alone: versions are immutable, and running this twice does no harm.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import stamina

from eoforge.errors import EoforgeError, NotFound

PREFIX = "eoforge-"
TOKEN_PATH = "KF_PIPELINES_SA_TOKEN_PATH"  # noqa: S105  # kfp's own variable for the file


def object_name(path: Path) -> str:
    """``archive_to_service.yaml`` as the pipeline ``eoforge-archive-to-service``."""
    return PREFIX + path.stem.replace("_", "-")


def upload(client: Any, paths: list[Path], version: str, namespace: str | None) -> list[str]:
    """Uploads each file and returns one line per file that says what became of it.

    Args:
        client: A ``kfp.Client``.
        paths: Compiled pipelines.
        version: Name of the version.
        namespace: Profile that owns the pipelines; None for shared ones.

    Raises:
        NotFound: There are no files.
    """
    if not paths:
        raise NotFound("no compiled pipelines there; name a folder with the *.yaml of pipelines/compiled")
    lines = []
    for path in paths:
        name, label = object_name(path), f"{object_name(path)}-{version}"
        found = client.get_pipeline_id(name)
        if found is None:
            client.upload_pipeline(str(path), pipeline_name=name, namespace=namespace)
            found = client.get_pipeline_id(name)
        known = client.list_pipeline_versions(found, page_size=100).pipeline_versions or []
        if label in {v.display_name for v in known}:
            lines.append(f"{label}: is there")
            continue
        client.upload_pipeline_version(str(path), label, pipeline_id=found)
        lines.append(f"{label}: uploaded")
    return lines


def connect(host: str) -> Any:
    """A client once the API server answers; a fresh installation may need minutes.

    Raises:
        EoforgeError: It did not answer.
    """
    import kfp
    from kfp.client import ServiceAccountTokenVolumeCredentials
    from urllib3.exceptions import HTTPError

    credentials = ServiceAccountTokenVolumeCredentials() if os.environ.get(TOKEN_PATH) else None
    try:
        for attempt in stamina.retry_context(on=(HTTPError, OSError), attempts=20, wait_max=15.0, timeout=300.0):
            with attempt:
                client = kfp.Client(host=host, credentials=credentials)
                client.get_kfp_healthz(sleep_duration=1)
    except (HTTPError, OSError, TimeoutError) as error:
        raise EoforgeError(
            f"Kubeflow Pipelines does not answer at {host}: {error}. Check kubeflow.pipelines.host, or set "
            "kubeflow.pipelines.delivery to objects or none"
        ) from error
    return client


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.upload", description="Upload compiled pipelines.")
    parser.add_argument("folder", type=Path, help="folder with compiled pipelines")
    parser.add_argument("--host", required=True, help="address of the API server, http://ml-pipeline.kubeflow:8888")
    parser.add_argument("--version", required=True, help="name of the version")
    parser.add_argument("--namespace", help="profile that owns the pipelines")
    args = parser.parse_args(argv)
    try:
        lines = upload(connect(args.host), sorted(args.folder.glob("*.yaml")), args.version, args.namespace)
    except EoforgeError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
