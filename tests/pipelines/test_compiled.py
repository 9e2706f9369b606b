"""The compiled pipelines: committed as compiled, no caching, everything described, placed and bounded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.compile import COMPILED, compile_all, differences, main
from pipelines.definitions import PIPELINES
from pipelines.settings import (
    CA_CONFIG_MAP,
    CA_FOLDER,
    CONFIG_MAP,
    GPU_RESOURCE,
    IMAGE,
    IMAGE_VARIABLE,
    MAX_ITERATIONS,
    SECRET,
    USER_ID,
)

PAGES_AND_FIGURES = ("system.HTML", "system.Markdown", "system.Metrics", "system.ClassificationMetrics")
GPU_STEPS = {"train", "encode-range", "evaluate", "compress-range", "predict-range", "select-pairs", "audit-labels"}
TABLE_STEPS = {
    "plan-ingest",
    "plan-construct",
    "ingest-range",
    "commit-ingest",
    "finish-table",
    "quality-report",
    "train",
    "plan-index",
}
TABLE_STEPS |= {"encode-range", "commit-index", "evaluate", "federate"}
TABLE_STEPS |= {"plan-compress", "compress-range", "commit-compress"}
TABLE_STEPS |= {"plan-ivf", "ivf-range", "commit-ivf"}
TABLE_STEPS |= {"open-session", "select-pairs", "select-pairs-2"}
TABLE_STEPS |= {"plan-predict", "predict-range", "commit-predict", "audit-labels"}


@pytest.fixture(scope="module", params=PIPELINES)
def compiled(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """Pipeline specification and platform specification of one committed file."""
    spec, platform = yaml.safe_load_all((COMPILED / f"{request.param}.yaml").read_text())
    return spec, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def dags(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield spec["root"]["dag"]
    yield from (c["dag"] for c in spec["components"].values() if "dag" in c)


def tasks(spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, task and component of every step that runs a container."""
    for dag in dags(spec):
        for name, task in dag["tasks"].items():
            component = spec["components"][task["componentRef"]["name"]]
            if "executorLabel" in component:
                yield name, task, component


def test_committed_files_are_what_compiles() -> None:
    assert differences() == ""
    assert {path.stem for path in COMPILED.glob("*.yaml")} == set(PIPELINES)


def test_check_finds_a_stale_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compile_all(tmp_path)
    assert main(["--check", "--out", str(tmp_path)]) == 0
    stale = tmp_path / "train.yaml"
    stale.write_text(stale.read_text().replace("eoforge-train", "other-name"))
    (tmp_path / "gone.yaml").write_text("left over\n")
    assert main(["--check", "--out", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "-  name: other-name" in shown
    assert "-left over" in shown


def test_another_image_reaches_every_step(tmp_path: Path) -> None:
    image = f"lab.example/eoforge-python@sha256:{'0' * 64}"
    subprocess.run(
        [sys.executable, "-m", "pipelines.compile", "--image", image, "--out", str(tmp_path)], check=True, timeout=120
    )
    for path in tmp_path.glob("*.yaml"):
        text = path.read_text()
        assert IMAGE not in text
        spec = next(yaml.safe_load_all(text))
        containers = [e["container"] for e in spec["deploymentSpec"]["executors"].values()]
        assert {c["image"] for c in containers} == {image}
        assert all({"name": IMAGE_VARIABLE, "value": image} in c["env"] for c in containers)
        defaults = spec["root"]["inputDefinitions"]["parameters"]
        assert "image" not in defaults or defaults["image"]["defaultValue"] == image


def test_pipelines_and_steps_have_names_for_people(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    spec, _ = compiled
    assert spec["pipelineInfo"]["displayName"][0].isupper()
    for name, task, _ in tasks(spec):
        assert task["taskInfo"]["name"] == name.replace("-", " ").capitalize()


def test_lineage_has_the_type_of_what_it_names(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    spec, _ = compiled
    expected = {"train": "system.Model", "federate": "system.Model"}
    writers = ("commit-ingest", "commit-index", "commit-ivf", "commit-compress", "commit-predict", "audit-labels")
    expected |= dict.fromkeys(writers, "system.Dataset")
    for name, _, component in tasks(spec):
        artifacts = component.get("outputDefinitions", {}).get("artifacts", {})
        found = artifacts["lineage"]["artifactType"]["schemaTitle"] if "lineage" in artifacts else None
        assert found == expected.get(name)


def test_nothing_is_cached(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    spec, _ = compiled
    checked = set()
    for dag in dags(spec):
        for name, task in dag["tasks"].items():
            if "iterator" not in task and not name.startswith("for-loop"):
                assert not task.get("cachingOptions", {}).get("enableCache"), f"{name} could be answered from the cache"
                checked.add(name)
    assert checked & TABLE_STEPS


def test_every_pipeline_input_output_and_step_is_described(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    spec, _ = compiled
    assert spec["pipelineInfo"]["description"]
    generated = ("comp-for-loop", "comp-condition")
    components = {n: c for n, c in spec["components"].items() if not n.startswith(generated)} | {"root": spec["root"]}
    missing = [
        f"{component}.{side}.{name}"
        for component, content in components.items()
        for side in ("inputDefinitions", "outputDefinitions")
        for kind in ("parameters", "artifacts")
        for name, definition in content.get(side, {}).get(kind, {}).items()
        if not definition.get("description")
    ]
    assert missing == []


def test_steps_install_nothing_and_use_our_image(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    spec, _ = compiled
    for name, executor in spec["deploymentSpec"]["executors"].items():
        container = executor["container"]
        assert container["image"] == IMAGE, name
        assert "pip install" not in " ".join(container["command"]), name


def test_limits_retries_and_gpus(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    spec, _ = compiled
    for name, task, component in tasks(spec):
        assert task["retryPolicy"]["maxRetryCount"] >= 2, name
        resources = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]["resources"]
        assert resources["cpuLimit"], name
        assert resources["memoryLimit"], name
        assert resources["cpuRequest"], f"{name}: a quota refuses a pod that requests nothing"
        assert resources["memoryRequest"], name
        has_gpu = resources.get("accelerator", {}).get("resourceType") == GPU_RESOURCE
        assert has_gpu == (name in GPU_STEPS and name != "train"), f"{name}: the step that waits would hold a GPU, too"
        # As parameters, kfp would add inputs to the task that its component does not declare.
        assert set(task.get("inputs", {}).get("parameters", {})) <= set(
            component.get("inputDefinitions", {}).get("parameters", {})
        )


def test_placement_on_kubernetes(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    spec, platform = compiled
    steps = {component["executorLabel"]: name for name, _, component in tasks(spec)}
    assert set(steps) == set(platform)
    for label, name in steps.items():
        place = platform[label]
        assert place["secretAsEnv"][0]["secretName"] == SECRET, name
        assert place["configMapAsEnv"][0]["configMapName"] == CONFIG_MAP, name
        (ca,) = place["configMapAsVolume"]
        assert (ca["configMapName"], ca["mountPath"], ca["optional"]) == (CA_CONFIG_MAP, CA_FOLDER, True), name
        context = place["securityContext"]
        assert (context["runAsNonRoot"], int(context["runAsUser"])) == (True, USER_ID), name
        assert place["activeDeadlineSeconds"], name
        tolerations = [t["key"] for t in place.get("tolerations", [])]
        assert (GPU_RESOURCE in tolerations) == (name in GPU_STEPS), name


def test_tables_are_no_artifacts(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    spec, _ = compiled
    for name, component in [*spec["components"].items(), ("root", spec["root"])]:
        assert "artifacts" not in component.get("inputDefinitions", {}), f"{name} would download an artifact"
        for output, entry in component.get("outputDefinitions", {}).get("artifacts", {}).items():
            kind = entry["artifactType"]["schemaTitle"]
            assert kind in PAGES_AND_FIGURES or output == "lineage", (name, output)


def test_only_a_shard_range_enters_a_loop(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    spec, _ = compiled
    loops = [t for dag in dags(spec) for t in dag["tasks"].values() if "parameterIterator" in t]
    for loop in loops:
        own = loop["parameterIterator"]["items"]["inputParameter"]
        from_tasks = [n for n, v in loop["inputs"]["parameters"].items() if "taskOutputParameter" in v and n != own]
        # kfp.local replaces these by the loop item, see pipelines/ranges.py.
        assert from_tasks == []
        assert 1 <= loop["iteratorPolicy"]["parallelismLimit"] <= MAX_ITERATIONS


def test_training_settings_go_to_the_training_pods() -> None:
    spec = next(yaml.safe_load_all((COMPILED / "train.yaml").read_text()))
    passed = {
        p["field"]: p.get("applyToTask", False) for p in spec["components"]["comp-train"]["taskConfigPassthroughs"]
    }
    assert passed["RESOURCES"] is True, "a quota refuses the step's own pod without requests"
    inputs = spec["components"]["comp-train"]["inputDefinitions"]["parameters"]
    assert {"gpus", "cpu", "memory"} <= set(inputs), "what the training pods get"
    assert passed["ENV"] is True, "the step reads the store, too"
    assert {"KUBERNETES_TOLERATIONS", "KUBERNETES_NODE_SELECTOR", "KUBERNETES_AFFINITY"} <= set(passed)
