"""Uploading pipelines through kfp's own client, against a server that keeps the contract of Kubeflow Pipelines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from eoforge.errors import NotFound
from pipelines.upload import main, object_name, upload
from tests.charts.kubeflow_pipelines import Pipeline, Pipelines, running
from tests.charts.support import ROOT

COMPILED = ROOT / "pipelines" / "compiled"
NAMES = {object_name(path) for path in COMPILED.glob("*.yaml")}
TEAM = "team-a"

pytestmark = pytest.mark.filterwarnings("ignore:This client only works:FutureWarning")


@pytest.fixture(params=[False, True], ids=["single-user", "multi-user"])
def kubeflow(request: pytest.FixtureRequest) -> Iterator[tuple[str, Pipelines]]:
    """Address of a server and what it keeps."""
    state = Pipelines(multi_user=request.param, allowed={TEAM})
    with running(state) as host:
        yield host, state


def arguments(host: str, version: str, namespace: str = TEAM) -> list[str]:
    """Command line of the chart's job."""
    return ["--host", host, "--version", version, "--namespace", namespace, str(COMPILED)]


def test_uploading_twice_does_no_harm_and_a_new_release_adds_versions(
    kubeflow: tuple[str, Pipelines], capsys: pytest.CaptureFixture[str]
) -> None:
    host, state = kubeflow
    home = TEAM if state.multi_user else ""
    for _ in range(2):
        assert main(arguments(host, "0.1.0")) == 0
        kept = state.of(home)
        assert set(kept) == NAMES
        assert len(state.kept) == len(NAMES)
        assert all(set(pipeline.versions) == {name, f"{name}-0.1.0"} for name, pipeline in kept.items())
    assert capsys.readouterr().out.count("is there") == len(NAMES)
    assert main(arguments(host, "0.2.0")) == 0
    kept = state.of(home)
    assert all(f"{name}-0.2.0" in pipeline.versions for name, pipeline in kept.items())
    ingest = (COMPILED / "ingest.yaml").read_bytes()
    assert kept["eoforge-ingest"].versions["eoforge-ingest-0.2.0"].strip() == ingest.strip()


def test_a_shared_pipeline_of_the_same_name_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    state = Pipelines(multi_user=True, allowed={TEAM, ""})
    state.kept["shared"] = Pipeline("eoforge-ingest", "", {"eoforge-ingest": b""})
    with running(state) as host:
        assert main(arguments(host, "0.1.0")) == 0
    assert set(state.kept["shared"].versions) == {"eoforge-ingest"}
    assert set(state.of(TEAM)) == NAMES


def test_a_version_is_found_among_many(kubeflow: tuple[str, Pipelines]) -> None:
    host, state = kubeflow
    assert main(arguments(host, "0.1.0")) == 0
    for pipeline in state.kept.values():
        first = pipeline.versions
        pipeline.versions = {f"old-{i}": b"" for i in range(150)} | first
    assert main(arguments(host, "0.1.0")) == 0


def test_a_namespace_that_is_not_ours_is_refused_with_the_servers_words(capsys: pytest.CaptureFixture[str]) -> None:
    state = Pipelines(multi_user=True, allowed={TEAM})
    with running(state) as host:
        assert main(arguments(host, "0.1.0", "team-b")) == 1
    words = capsys.readouterr().err
    assert "permission to use pipelines.pipelines.kubeflow.org" in words
    assert "namespace team-b" in words
    assert "Traceback" not in words
    assert state.kept == {}


def test_two_uploads_at_once_end_in_a_conflict_that_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Between the question and the upload another job has made the pipeline."""
    state = Pipelines(multi_user=True, allowed={TEAM}, rival="eoforge-archive-to-service")
    with running(state) as host:
        assert main(arguments(host, "0.1.0")) == 1
    assert "409" in (words := capsys.readouterr().err)
    assert "run it again" in words


def test_a_broken_server_is_an_error_and_no_traceback(
    kubeflow: tuple[str, Pipelines], capsys: pytest.CaptureFixture[str]
) -> None:
    host, state = kubeflow
    state.down = True
    assert main(arguments(host, "0.1.0")) == 1
    assert "500" in (words := capsys.readouterr().err)
    assert "Traceback" not in words


def test_without_a_namespace_pipelines_are_shared(kubeflow: tuple[str, Pipelines]) -> None:
    host, state = kubeflow
    state.allowed = {""}
    assert main(["--host", host, "--version", "0.1.0", str(COMPILED)]) == 0
    assert set(state.of("")) == NAMES


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="compiled pipelines"):
        upload(None, sorted(tmp_path.glob("*.yaml")), "0.1.0", None)
