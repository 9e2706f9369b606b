"""The tree keeps its shape: file sizes, fixed file sets, anchors on TODOs, names that clash with nothing."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MAX_LINES = 600
CODE_FOLDERS = ("eoforge", "kernels", "pipelines", "services", "tests", "benchmarks", "scripts")
METHOD_FILES = {"README.md", "__init__.py", "config.py", "method.py"}
"""Networks and losses that several methods share are in eoforge/nn, eoforge/losses and the federated strategies."""
KERNEL_FILES = {"README.md", "__init__.py", "kernel.py", "reference.py"}
SERVICE_FILES = {"README.md", "__init__.py", "__main__.py", "settings.py", "server.py"}
WEB_SERVICES = {"console"}
"""Services that answer browsers alone, and so have no Open Inference Protocol."""
SHARED_FOLDERS = {"evaluation", "noise_robust"}
"""Folders beside the methods that hold none of them."""
PUBLISHED = {"reben", "csmae", "ss_cm_rsir", "rs_jcif", "anneal", "dml_s2r", "rs_irl_svae", "grid", "fl_rs", "mm_fl"}


def python_files() -> list[Path]:
    """Our own Python files; ``eoforge/api`` is generated."""
    api = ROOT / "eoforge" / "api"
    return [p for folder in CODE_FOLDERS for p in sorted((ROOT / folder).rglob("*.py")) if api not in p.parents]


def folders(parent: str) -> list[Path]:
    """Sub-packages of ``parent`` that hold one op, method or service each."""
    found = (p for p in (ROOT / parent).iterdir() if p.is_dir() and list(p.glob("*.py")))
    return sorted(p for p in found if not p.name.startswith("_") and p.name not in SHARED_FOLDERS)


def test_no_file_is_too_long() -> None:
    long = {str(p.relative_to(ROOT)): n for p in python_files() if (n := len(p.read_text().splitlines())) > MAX_LINES}
    assert not long, f"files above {MAX_LINES} lines: {long}"


def test_every_module_says_what_it_is() -> None:
    trees = {p: ast.parse(p.read_text()) for p in python_files()}
    silent = [str(p.relative_to(ROOT)) for p, tree in trees.items() if tree.body and not ast.get_docstring(tree)]
    assert not silent, f"modules without a docstring: {silent}"


def test_todo_comments_name_an_anchor() -> None:
    pattern = re.compile(r"#.*\b(TODO|FIXME|XXX)\b(?!\(#\d+\))")
    hits = [
        f"{p.relative_to(ROOT)}:{i}"
        for p in python_files()
        for i, line in enumerate(p.read_text().splitlines(), 1)
        if pattern.search(line) and p != Path(__file__)
    ]
    assert not hits, f"TODO without an anchor such as TODO(#12): {hits}"


@pytest.mark.parametrize(
    ("parent", "required"),
    [("eoforge/methods", METHOD_FILES), ("kernels", KERNEL_FILES), ("services", SERVICE_FILES)],
)
def test_fixed_file_sets(parent: str, required: set[str]) -> None:
    assert folders(parent), f"{parent} holds no package: the test would check nothing"
    for folder in folders(parent):
        present = {p.name for p in folder.iterdir()}
        assert required <= present, f"{folder.relative_to(ROOT)} lacks {sorted(required - present)}"


def test_a_service_speaks_the_inference_protocol_or_is_a_web_page() -> None:
    without = {p.name for p in folders("services") if not (p / "kserve.py").is_file()}
    assert without == WEB_SERVICES


def test_a_service_with_a_typed_api_has_a_servicer() -> None:
    with_api = [p.name for p in folders("services") if (ROOT / "proto" / "eoforge" / "api" / p.name).is_dir()]
    assert len(with_api) >= 3
    assert [name for name in with_api if not (ROOT / "services" / name / "servicer.py").is_file()] == []


def test_the_registry_names_the_published_methods_and_matches_the_folders() -> None:
    from eoforge.methods import METHODS

    assert set(METHODS) >= PUBLISHED
    built = {name for name, entry in METHODS.items() if entry.path is not None}
    assert built == {p.name for p in folders("eoforge/methods")}


def test_readme_has_a_row_for_every_method() -> None:
    from eoforge.methods import METHODS

    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| `")]
    assert {row.split("`")[1] for row in rows} >= set(METHODS)


def test_import_names_belong_to_us_alone() -> None:
    owners = importlib.metadata.packages_distributions()
    for name in ("eoforge", "kernels", "pipelines", "services"):
        assert set(owners.get(name, ["eoforge"])) == {"eoforge"}, f"{name} also comes from {owners[name]}"


def test_command_line_starts_without_heavy_imports() -> None:
    heavy = ("torch", "lance", "timm", "pytorch_lightning", "kfp", "kserve", "faiss", "rasterio", "matplotlib")
    code = f"import sys, eoforge.cli; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_nothing_unpickles() -> None:
    pattern = re.compile(r"^\s*(import|from) (pickle|cloudpickle|dill)\b|weights_only\s*=\s*False", re.MULTILINE)
    hits = [str(p.relative_to(ROOT)) for p in python_files() if pattern.search(p.read_text()) and p != Path(__file__)]
    assert not hits, f"pickle is never used: {hits}"


def test_locks_match_pyproject() -> None:
    from scripts.lock import stale_locks

    assert stale_locks() == []


def test_the_citation_names_this_version_and_licence() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
