"""Compiler of every pipeline to ``pipelines/compiled``.

    python -m pipelines.compile [--check] [--image IMAGE] [--out DIR]

The files are committed, so that reviews show changes of a pipeline and an upload needs no Python.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import tempfile
from pathlib import Path

COMPILED = Path(__file__).resolve().parent / "compiled"


def compile_all(out: Path) -> list[Path]:
    """Paths of the YAML files, one per pipeline, written to ``out``; the same code gives the same bytes."""
    from kfp.compiler import Compiler

    from pipelines.definitions import all_pipelines

    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, pipeline in all_pipelines().items():
        path = out / f"{name}.yaml"
        Compiler().compile(pipeline, str(path))
        paths.append(path)
    return paths


def differences(committed: Path = COMPILED) -> str:
    """Unified diff between the committed files and newly compiled ones; empty if they are equal."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = {path.name: path.read_text().splitlines(keepends=True) for path in compile_all(Path(folder))}
    old = {path.name: path.read_text().splitlines(keepends=True) for path in committed.glob("*.yaml")}
    lines: list[str] = []
    for name in sorted(fresh.keys() | old.keys()):
        lines += difflib.unified_diff(old.get(name, []), fresh.get(name, []), f"committed/{name}", f"fresh/{name}")
    return "".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Command line of the compiler; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.compile", description="Compile the pipelines.")
    parser.add_argument("--check", action="store_true", help="compare with the committed files and write nothing")
    parser.add_argument("--image", help="image of the steps, by tag or digest, for a registry of your own")
    parser.add_argument("--out", type=Path, default=COMPILED, help="folder to write")
    args = parser.parse_args(argv)
    if args.image:
        os.environ["EOFORGE_PIPELINES_IMAGE"] = args.image  # read when pipelines.settings is imported, below
    if args.check:
        found = differences(args.out)
        print(found or f"{args.out}: up to date")
        if found:
            print("compiled pipelines are stale; run `make pipelines` and commit the result", file=sys.stderr)
        return 1 if found else 0
    for path in compile_all(args.out):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
