"""Uploads compiled pipelines to Kubeflow Pipelines: ``python -m pipelines.upload --host URL --version V FOLDER``.

What the chart's job does after installing and upgrading. A pipeline that is there gets a further version, a version
that is there is left alone: versions are immutable, and running this twice does no harm.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import stamina

from eoforge.errors import ConflictError, EoforgeError, NotFound

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
        namespace: Profile that owns the pipelines, which a single-user Kubeflow ignores; None for shared ones.

    Raises:
        NotFound: There are no files.
        ConflictError: Another upload of the same pipeline won, or two pipelines have the name.
        EoforgeError: Kubeflow Pipelines refused.
    """
    if not paths:
        raise NotFound("no compiled pipelines there; name a folder with the *.yaml of pipelines/compiled")
    lines = []
    for path in paths:
        name, label = object_name(path), f"{object_name(path)}-{version}"
        with _asking(f"upload {label}", namespace):
            found = _pipeline_id(client, name, namespace)
            if found is None:
                found = client.upload_pipeline(str(path), pipeline_name=name, namespace=namespace).pipeline_id
            if client.list_pipeline_versions(found, filter=_named(label)).pipeline_versions:
                lines.append(f"{label}: is there")
                continue
            client.upload_pipeline_version(str(path), label, pipeline_id=found)
        lines.append(f"{label}: uploaded")
    return lines


def _pipeline_id(client: Any, name: str, namespace: str | None) -> str | None:
    """The pipeline of this name in this namespace; ``kfp.Client.get_pipeline_id`` looks at shared pipelines alone."""
    found = client.list_pipelines(filter=_named(name), namespace=namespace).pipelines or []
    if len(found) > 1:
        raise ConflictError(
            f"{len(found)} pipelines are named {name} in {_home(namespace)}; rename or delete all but one"
        )
    return str(found[0].pipeline_id) if found else None


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def _home(namespace: str | None) -> str:
    return f"namespace {namespace}" if namespace else "the shared pipelines"


@contextmanager
def _asking(what: str, namespace: str | None) -> Iterator[None]:
    """Errors of the client as ours, with the words of the server."""
    from kfp_server_api import ApiException
    from urllib3.exceptions import HTTPError

    home = _home(namespace)
    try:
        yield
    except ApiException as error:
        said = f"Kubeflow Pipelines refused to {what} in {home}: {error.status} {error.reason}: {_words(error.body)}"
        if error.status == 409:
            raise ConflictError(f"{said}. Another upload was faster; run it again") from error
        raise EoforgeError(
            f"{said}. The upload's service account needs the verbs get, list and create on "
            f"pipelines.pipelines.kubeflow.org in {home}"
        ) from error
    except (HTTPError, OSError) as error:
        raise EoforgeError(f"Kubeflow Pipelines stopped answering during {what}: {error}; run it again") from error


def _words(body: Any) -> str:
    """What the server says in its JSON, or the start of its text."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body or "no details")
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return text[:500].strip()
    known = (found.get(key) for key in ("error_message", "message", "error")) if isinstance(found, dict) else ()
    return str(next((words for words in known if words), text))[:500]


def connect(host: str, namespace: str | None) -> Any:
    """A client once the API server answers; a fresh installation may need minutes.

    Raises:
        EoforgeError: It did not answer, or refuses to list pipelines in this namespace.
    """
    import kfp
    from kfp.client import ServiceAccountTokenVolumeCredentials
    from urllib3.exceptions import HTTPError

    credentials = ServiceAccountTokenVolumeCredentials() if os.environ.get(TOKEN_PATH) else None
    try:
        with _asking("list pipelines", namespace):
            for attempt in stamina.retry_context(on=_not_yet, attempts=20, wait_max=15.0, timeout=300.0):
                with attempt:
                    # With a namespace the client asks for no health, which would log a traceback for each attempt.
                    client = kfp.Client(host=host, credentials=credentials, namespace=namespace or "shared")
                    client.list_pipelines(page_size=1, namespace=namespace)
    except EoforgeError as error:
        if isinstance(error.__cause__, HTTPError | OSError):
            raise EoforgeError(
                f"Kubeflow Pipelines does not answer at {host}: {error.__cause__}. Check kubeflow.pipelines.host, or "
                "set kubeflow.pipelines.delivery to objects or none"
            ) from error
        raise
    return client


def _not_yet(error: Exception) -> bool:
    """Whether the server may answer in a moment: it is not there yet, or says so itself."""
    from kfp_server_api import ApiException
    from urllib3.exceptions import HTTPError

    return isinstance(error, HTTPError | OSError) or (isinstance(error, ApiException) and error.status in (0, 502, 503))


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.upload", description="Upload compiled pipelines.")
    parser.add_argument("folder", type=Path, help="folder with compiled pipelines")
    parser.add_argument("--host", required=True, help="address of the API server, http://ml-pipeline.kubeflow:8888")
    parser.add_argument("--version", required=True, help="name of the version")
    parser.add_argument("--namespace", help="profile that owns the pipelines")
    args = parser.parse_args(argv)
    try:
        lines = upload(
            connect(args.host, args.namespace), sorted(args.folder.glob("*.yaml")), args.version, args.namespace
        )
    except EoforgeError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
