"""The plan of the house holds: no import cycles, small folders, and every path that code or docs cite exists."""

from __future__ import annotations

import ast
import re
import subprocess
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

from tests.layout.test_layout import CODE_FOLDERS, ROOT, python_files

MAX_MODULES = 20
PACKAGES = ("eoforge", "kernels", "pipelines", "services", "scripts", "benchmarks")
CITED = re.compile(
    r"(?<![\w./:{<-])((?:"
    + "|".join((*CODE_FOLDERS, "docs", "charts", "proto", "facts", "design"))
    + r")(?:/[\w.*-]+)*/(?:[\w*-]+\.\w+)?)"
)
"""A file (with its suffix) or a folder (with its slash), as texts write them."""
CITED_FROM = ("", "proto", "charts")
"""Folders that cited paths start from."""
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)\s#]+)[^)]*\)")
REFERENCE = re.compile(r":(?:mod|class|func|meth|data):`~?((?:eoforge|kernels|pipelines|services)[\w.]+)`")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def import_graph() -> dict[str, set[str]]:
    """Module -> modules that it imports, anywhere in the file: at the top, in functions, for type checkers."""
    modules = {module_name(p): p for p in python_files() if p.relative_to(ROOT).parts[0] in PACKAGES}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        targets = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                full = {f"{node.module}.{alias.name}" for alias in node.names}
                targets |= (full & modules.keys()) or {node.module}
        graph[name] = (targets & modules.keys()) - {name}
    return graph


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [path for line in listed.stdout.splitlines() if (path := ROOT / line).is_file()]


def test_no_import_cycles() -> None:
    graph = import_graph()
    assert len(graph) > 300, "hardly any module was found: the test would check nothing"
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"files import each other: {' <- '.join(error.args[1])}") from None


def test_folders_stay_small() -> None:
    folders: dict[Path, int] = {}
    for path in python_files():
        if path.name != "__init__.py":
            folders[path.parent] = folders.get(path.parent, 0) + 1
    crowded = {str(f.relative_to(ROOT)): n for f, n in folders.items() if n > MAX_MODULES}
    assert not crowded, f"folders with more than {MAX_MODULES} modules: {crowded}"


def test_every_cited_path_exists() -> None:
    missing = []
    for file in tracked("*.py", "*.md", "*.toml", "Makefile", ".ci/run", "*/Dockerfile"):
        if "eoforge/api" in str(file) or "benchmarks/results" in str(file):
            continue
        for cited in CITED.findall(file.read_text()):
            if not any(list((ROOT / start).glob(cited)) for start in CITED_FROM):
                missing.append(f"{file.relative_to(ROOT)}: {cited}")
    assert not missing, "paths that do not exist:\n" + "\n".join(missing)


def test_every_link_of_the_docs_leads_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in tracked("*.md")
        for target in LINK.findall(page.read_text())
        if not (page.parent / target).exists()
    ]
    assert not broken, "links that lead nowhere:\n" + "\n".join(broken)


def test_every_cross_reference_names_something() -> None:
    unknown = []
    for file in python_files():
        for reference in REFERENCE.findall(file.read_text()):
            if not resolves(reference):
                unknown.append(f"{file.relative_to(ROOT)}: {reference}")
    assert not unknown, "references to what is not there:\n" + "\n".join(unknown)


def resolves(reference: str) -> bool:
    """Whether ``package.module.Name.attribute`` can be imported."""
    parts = reference.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[end:]:
            annotations = getattr(found, "__annotations__", {})
            if not hasattr(found, attribute) and attribute not in annotations:
                return False
            found = getattr(found, attribute, None)
        return True
    return False
