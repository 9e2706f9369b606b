"""Ablation of MM-FL as a command: figures with and without each module, for radar, optical or both at inference.

    python -m eoforge.methods.mm_fl.ablation --data TABLE --out FOLDER [--preset tiny] [--scenarios ds1,ds2]
    [--seeds 0,1,2] [key=value ...]

Figures are means over the seeds. Finished runs are stored in ``FOLDER/runs`` and not repeated. ``ablation.json`` holds
every figure, ``ablation.html`` the tables and curves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from eoforge.config import build_config
from eoforge.federated.training.data import Images, images_of, normalisation_of
from eoforge.federated.training.simulation import play
from eoforge.methods.mm_fl.config import Config
from eoforge.methods.mm_fl.method import METHOD, VIEWS
from eoforge.methods.seeds import figure_text, lead_text, overrides_of, page_axes, parser_of, refuse_seed, row_of
from eoforge.report import figure, page, section, table
from eoforge.storage.addresses import TableRef

GRID: dict[str, dict[str, str]] = {
    "FedAvg per sensor": {"mf": "false", "fw": "false", "mim": "off"},
    "MF": {"mf": "true", "fw": "false", "mim": "off"},
    "MF + FW": {"mf": "true", "fw": "true", "mim": "off"},
    "MF + MIM (relay)": {"mf": "true", "fw": "false", "mim": "relay"},
    "MF + FW + MIM (relay)": {"mf": "true", "fw": "true", "mim": "relay"},
    "MF + MIM (paired)": {"mf": "true", "fw": "false", "mim": "paired"},
    "MF + FW + MIM (paired)": {"mf": "true", "fw": "true", "mim": "paired"},
}
"""Rows. With ``paired`` a country is one silo that holds both sensors, else two silos with one each."""
MEASURES = ("f1_micro", "f1_macro", "f1_weighted", "map_micro", "map_macro")


def ablate(
    data: TableRef,
    out: Path,
    *,
    scenarios: Sequence[str] = ("ds1", "ds2"),
    seeds: Sequence[int] = (0,),
    preset: str = "tiny",
    overrides: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Figures of the ablation, also written as ``ablation.json`` and ``ablation.html`` below ``out``.

    Raises:
        UsageError: A name or value is unknown.
    """
    data = data.pinned()
    given = dict(overrides or {})
    refuse_seed(given)
    shared: list[Images] = []
    rows = []
    for scenario in scenarios:
        for row, choice in GRID.items():
            settings = [{**given, **choice, "scenario": scenario, "seed": str(seed)} for seed in seeds]
            configs = [build_config(Config, preset, each) for each in settings]
            figures = row_of(METHOD.name, configs, data, out / "runs", partial(_run, data=data, shared=shared))
            rows.append({"scenario": scenario, "row": row, **figures})
    result = {"table": str(data), "preset": preset, "seeds": list(seeds), "overrides": given, "rows": rows}
    (out / "ablation.json").write_text(json.dumps(result, indent=2) + "\n")
    (out / "ablation.html").write_text(_page(result))
    return result


def _run(config: Config, data: TableRef, shared: list[Images]) -> dict[str, Any]:
    """Figures of one run; ``shared`` holds the images for the next run."""
    if not shared:
        shared.append(images_of(data, config, normalisation_of(data, config.bands_read)))
    played = play(METHOD, config, data, images=shared[0])
    return {
        "silos": len(played.silos),
        "test": played.test,
        "bytes_per_round": played.traffic["down"] + played.traffic["up"],
        "curve": [r.get("validation_both_f1_micro") for r in played.history],
    }


def _page(result: Mapping[str, Any]) -> str:
    parts = []
    for scenario in dict.fromkeys(r["scenario"] for r in result["rows"]):
        rows = [r for r in result["rows"] if r["scenario"] == scenario]
        tables = [
            section(
                f"{scenario}: inference with {' and '.join(sensors)}",
                table(
                    ["modules", *MEASURES, "silos", "MB/round"],
                    [
                        [
                            r["row"],
                            *(figure_text(r, f"{view}_{m}") for m in MEASURES),
                            r["silos"],
                            f"{r['bytes_per_round'] / 1e6:.2f}",
                        ]
                        for r in rows
                    ],
                ),
            )
            for view, sensors in VIEWS.items()
        ]
        parts += [*tables, section(f"{scenario}: curves", figure(_curves(rows), "Validation F1 (micro), both sensors"))]
    footer = "F1 and mAP on the test split of the same countries, measured on this table; not the figures of any paper."
    return page("MM-FL: what each module gives", lead_text(result), parts, footer)


def _curves(rows: Sequence[Mapping[str, Any]]) -> Any:
    fig, axes = page_axes()
    for row in rows:
        axes.plot(range(1, len(row["curve"]) + 1), row["curve"], marker="o", ms=3, label=row["row"])
    axes.set(xlabel="round", ylabel="F1 micro")
    axes.legend(fontsize=8)
    return fig


def print_table(result: Mapping[str, Any]) -> None:
    """Main figures in the terminal."""
    from rich.console import Console
    from rich.table import Table

    shown = Table("scenario", "modules", *(f"{v} {m}" for v in VIEWS for m in ("f1_weighted", "map_macro")), "MB/round")
    for row in result["rows"]:
        cells = [figure_text(row, f"{v}_{m}") for v in VIEWS for m in ("f1_weighted", "map_macro")]
        shown.add_row(row["scenario"], row["row"], *cells, f"{row['bytes_per_round'] / 1e6:.2f}")
    Console(width=160).print(shown)


def main() -> None:
    """Entry point of the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--scenarios", default="ds1,ds2")
    given = parser.parse_args()
    scenarios, overrides = tuple(given.scenarios.split(",")), overrides_of(given)
    print_table(
        ablate(given.data, given.out, scenarios=scenarios, seeds=given.seeds, preset=given.preset, overrides=overrides)
    )
    print(f"report: {given.out / 'ablation.html'}")


if __name__ == "__main__":
    main()
