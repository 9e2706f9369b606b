"""Generation of ``eoforge/api`` from ``proto/``: ``python -m scripts.generate_proto [--check]``.

Generated code is committed so that a user needs no compiler; ``--check`` (run in CI) fails when it differs from
the sources.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "proto"
VENDOR = ROOT / "proto" / "vendor"
"""Files of others that ours import; their Python code comes from googleapis-common-protos."""
PACKAGE = Path("eoforge/api")
INIT = '"""Generated from proto/ by ``python -m scripts.generate_proto``. Do not edit."""\n'


def generate(target: Path) -> None:
    """Writes the Python package of every proto file below ``target``.

    Raises:
        SystemExit: The compiler refuses a source.
    """
    protos = sorted(str(p.relative_to(SOURCES)) for p in (SOURCES / "eoforge").rglob("*.proto"))
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    outputs = [f"--{kind}={target}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    code = protoc.main(["protoc", f"-I{SOURCES}", f"-I{VENDOR}", f"-I{well_known}", *outputs, *protos])
    if code:
        raise SystemExit(f"protoc refused the files below {SOURCES} (exit code {code}); see its messages above")
    for folder in {target / PACKAGE, *(p.parent for p in (target / PACKAGE).rglob("*_pb2.py"))}:
        while folder != target / PACKAGE.parent:
            (folder / "__init__.py").write_text(INIT)
            folder = folder.parent


def contents(root: Path) -> dict[str, bytes]:
    """All files of the generated package below ``root``, by relative path."""
    files = (p for p in (root / PACKAGE).rglob("*.py*") if p.suffix in {".py", ".pyi"})
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


def differences() -> list[str]:
    """Paths whose committed content differs from the generated content."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        expected, committed = contents(Path(folder)), contents(ROOT)
    return sorted(path for path in expected.keys() | committed.keys() if expected.get(path) != committed.get(path))


def main() -> None:
    """Regenerates, or with ``--check`` compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if regenerating would")
    if not parser.parse_args().check:
        generate(ROOT)
        return
    stale = differences()
    if stale:
        sys.exit("generated code differs from proto/: " + ", ".join(stale) + "\nrun `make proto` and commit the result")


if __name__ == "__main__":
    main()
