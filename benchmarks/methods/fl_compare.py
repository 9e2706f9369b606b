"""The nine federated algorithms on a synthetic archive, and MM-FL's ablation grid: one run of both commands.

    python -m benchmarks.methods.fl_compare [--patches 2000] [--scenarios ds2] [--out FILE] [key=value ...]

The commands themselves, for any table, are ``python -m eoforge.methods.fl_rs.compare`` and
``python -m eoforge.methods.mm_fl.ablation``; here the archive is made first and the reports are thrown away.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.methods.cross_modal import synthetic_table
from eoforge.methods.fl_rs.compare import compare
from eoforge.methods.fl_rs.report import print_table
from eoforge.methods.mm_fl import ablation

ROUNDS = {"rounds": "10", "local_epochs": "1"}


def run(patches: int, scenarios: tuple[str, ...], overrides: dict[str, str]) -> dict[str, Any]:
    """Figures of both commands."""
    settings = {**ROUNDS, **overrides}
    with tempfile.TemporaryDirectory() as folder:
        table = synthetic_table(str(Path(folder) / "patches.lance"), patches)
        compared = compare(table, Path(folder) / "compare", scenarios=scenarios, overrides=settings)
        print_table(compared)
        common = {key: value for key, value in settings.items() if ":" not in key}
        ablated = ablation.ablate(table, Path(folder) / "ablation", scenarios=scenarios, overrides=common)
        ablation.print_table(ablated)
    return {"patches": patches, "comparison": compared, "ablation": ablated}


def main() -> None:
    """Command line: prints and writes all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=2000)
    parser.add_argument("--scenarios", default="ds2", help="ds1,ds2 takes twice as long")
    parser.add_argument("--out", type=Path)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    overrides = dict(setting.split("=", 1) for setting in arguments.settings)
    result = run(arguments.patches, tuple(arguments.scenarios.split(",")), overrides)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
