"""Imports of the federated library: none of a method, and no cycles between its files."""

from __future__ import annotations

import ast
from pathlib import Path

import eoforge

ROOT = Path(eoforge.__file__).parent.parent
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "eoforge" / "federated").rglob("*.py"))
}


def imports_of(path: Path) -> set[str]:
    """Modules of our own that a file imports, wherever in it: at the top, in functions, for type checks."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & FILES.keys()) or {node.module}
    return {name for name in found if name.startswith("eoforge.")}


def test_the_federated_library_imports_no_method() -> None:
    wrong = {name: [i for i in imports_of(path) if i.startswith("eoforge.methods")] for name, path in FILES.items()}
    assert len(FILES) > 30
    assert not {name: found for name, found in wrong.items() if found}


def test_files_of_the_federated_library_import_each_other_without_cycles() -> None:
    graph = {name: imports_of(path) & FILES.keys() - {name} for name, path in FILES.items()}
    while free := [name for name, needed in graph.items() if not needed & graph.keys()]:
        for name in free:
            del graph[name]
    assert not graph, f"a cycle is among {sorted(graph)}"
