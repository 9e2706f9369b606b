"""The start of a new method: what the script writes trains, is listed, and passes its own test and the linters."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.new_method import new_method

ROOT = Path(__file__).resolve().parents[2]
OWN_TEST = "/".join(("tests", "methods", "test_own_idea.py"))
PLANNED, PLANNED_LINE = "planned_idea", "what nobody has built yet"
PARTS = ("eoforge", "kernels", "tests/methods/conftest.py", "tests/conftest.py", "README.md", "pyproject.toml")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy of what a method needs, in which the script has made two methods: a new and a planned one."""
    root = tmp_path_factory.mktemp("checkout")
    for part in PARTS:
        source, target = ROOT / part, root / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    _plan(root, PLANNED)
    for name in ("own_idea", PLANNED):
        new_method(name, root)
    return root


def _plan(root: Path, name: str) -> None:
    """Adds a method that is planned but not built: its entry without a path, and its row."""
    registry, readme = root / "eoforge" / "methods" / "__init__.py", root / "README.md"
    first = '    "reben": '
    text = registry.read_text()
    assert text.count(first) == 1
    registry.write_text(text.replace(first, f'    "{name}": MethodEntry((Task.ENCODE,)),\n{first}'))
    lines = readme.read_text().splitlines(keepends=True)
    row = next(number for number, line in enumerate(lines) if line.startswith("| `reben` |"))
    readme.write_text("".join([*lines[:row], f"| `{name}` | {PLANNED_LINE} | planned |\n", *lines[row:]]))


def run(checkout: Path, *command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return done.stdout


def test_the_new_method_passes_its_test(checkout: Path) -> None:
    out = run(checkout, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", OWN_TEST)
    assert "2 passed" in out


def test_registry_and_readme_name_both(checkout: Path) -> None:
    found = run(
        checkout,
        "-c",
        "import eoforge.methods as m; "
        "print(m.__file__, [(n, e.path) for n, e in m.METHODS.items() if n.endswith('_idea')], len(m.METHODS))",
    )
    assert str(checkout) in found
    for name in (PLANNED, "own_idea"):
        assert f"('{name}', 'eoforge.methods.{name}.method:METHOD')" in found
    rows = [line for line in (checkout / "README.md").read_text().splitlines() if line.startswith("| `")]
    named = [row.split("`")[1] for row in rows]
    assert (named.count(PLANNED), named.count("own_idea"), named.index("own_idea")) == (1, 1, 11)
    assert f"{PLANNED_LINE} | **works**" in next(r for r in rows if f"`{PLANNED}`" in r)


def test_what_is_written_passes_the_linters(checkout: Path) -> None:
    paths = ["eoforge/methods/own_idea", "eoforge/methods/__init__.py", OWN_TEST]
    run(checkout, "-m", "ruff", "check", "--no-cache", *paths)
    run(checkout, "-m", "ruff", "format", "--check", "--no-cache", *paths)


@pytest.mark.parametrize("name", ["csmae", "training", "Own", "2d", "a-b", "", "own/idea"])
def test_names_that_cannot_be_are_refused(checkout: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"exists already|expected a name"):
        new_method(name, checkout)
