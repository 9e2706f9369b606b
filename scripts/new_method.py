"""Start of a new method: ``python -m scripts.new_method NAME [--root DIR]``.

Writes a folder that trains, a test that passes, the entry in ``METHODS`` and a row in the README. What it writes is a
small hashing method on pairs of both sensors; replace its parts one by one.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from string import Template

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = Path(__file__).parent / "method_template"
_NAME = re.compile(r"[a-z][a-z0-9_]{1,39}")
_ENTRY = '    "{name}": MethodEntry((Task.ENCODE,), "eoforge.methods.{name}.method:METHOD"),\n'


def new_method(name: str, root: Path = ROOT) -> list[Path]:
    """Files of a new method, written or changed.

    Args:
        name: Name of the method, a module name in lower case; a planned one gets its path.
        root: Checkout to write to.

    Raises:
        ValueError: The name is malformed or taken.
    """
    folder = root / "eoforge" / "methods" / name
    if not _NAME.fullmatch(name):
        raise ValueError(f"expected a name of lower-case letters, digits and _ (csmae, fl_rs); got {name!r}")
    if folder.exists() or folder.with_suffix(".py").exists():
        raise ValueError(f"{folder.relative_to(root)} exists already")
    names = {"name": name, "Class": "".join(part.capitalize() for part in name.split("_"))}
    written = []
    for template in sorted(TEMPLATES.glob("*.txt")):
        target = folder / template.stem
        if template.stem == "test.py":
            target = root / "tests" / "methods" / f"test_{name}.py"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(Template(template.read_text()).substitute(names))
        written.append(target)
    registry, readme = root / "eoforge" / "methods" / "__init__.py", root / "README.md"
    registry.write_text(_registered(registry.read_text(), name))
    readme.write_text(_with_row(readme.read_text(), name))
    _sort_imports(written)
    return [*written, registry, readme]


def _registered(text: str, name: str) -> str:
    """Source of the registry with an entry for ``name``."""
    entry = _ENTRY.format(name=name)
    planned = re.compile(rf'^    "{name}": MethodEntry\(\(.*\)\),\n', re.MULTILINE)
    if planned.search(text):
        return planned.sub(lambda _: entry, text)
    head, start, tail = text.partition("METHODS: dict[str, MethodEntry] = {\n")
    entries, end, rest = tail.partition("}\n")
    return head + start + entries + entry + end + rest


def _with_row(text: str, name: str) -> str:
    """README with a row for ``name`` in the table of methods."""
    row = f"| `{name}` | one line on the method | **works**: [README](eoforge/methods/{name}/README.md) |\n"
    planned = re.compile(rf"^\| `{name}` \| (.*) \| planned.* \|\n", re.MULTILINE)
    if found := planned.search(text):
        row = row.replace("one line on the method", found[1])
        return text[: found.start()] + row + text[found.end() :]
    rows = list(re.finditer(r"^\| `\w+` \|.*\|\n", text, re.MULTILINE))
    end = rows[0].end()
    for following in rows[1:]:
        if following.start() == end:
            end = following.end()
    return text[:end] + row + text[end:]


def _sort_imports(paths: list[Path]) -> None:
    """Order of the imports, which depends on the name."""
    ruff = [sys.executable, "-m", "ruff", "check", "--quiet", "--fix", "--no-cache", "--select", "I"]
    subprocess.run([*ruff, *(str(path) for path in paths if path.suffix == ".py")], check=True)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Start a new method.")
    parser.add_argument("name")
    parser.add_argument("--root", type=Path, default=ROOT, help="checkout to write to")
    args = parser.parse_args()
    try:
        written = new_method(args.name, args.root)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(str(path.relative_to(args.root)) for path in written))
    print(f"next: .venv/bin/python -m pytest -n 0 tests/methods/test_{args.name}.py")
    return 0


if __name__ == "__main__":
    sys.exit(main())
