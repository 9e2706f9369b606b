"""Comparison of all algorithms as a command: each on every scenario and backbone by five criteria, with a report.

    python -m eoforge.methods.fl_rs.compare --data TABLE --out FOLDER [--preset tiny] [--algorithms a,b] [--scenarios
    s,t] [--backbones b,c] [--seeds 0,1,2] [key=value ...] [algorithm:key=value ...]

Figures are means over the seeds. Finished runs are stored in ``FOLDER/runs`` and not repeated. ``comparison.json``
holds every figure, ``comparison.html`` tables, plots and a recommendation derived from them.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eoforge.config import build_config
from eoforge.errors import UsageError
from eoforge.federated.reduce import Part, combine
from eoforge.federated.simulate import MemorySource, begin
from eoforge.federated.strategies.fednova import NORMALISER
from eoforge.federated.strategies.registry import strategy_type
from eoforge.federated.strategy import RoundInfo, SiloInfo, UpdateInfo
from eoforge.federated.training.data import Images, images_of, normalisation_of
from eoforge.federated.training.scenarios import SCENARIOS
from eoforge.federated.training.simulation import play
from eoforge.federated.training.specs import first_model
from eoforge.methods.fl_rs.config import ALGORITHMS, Config
from eoforge.methods.fl_rs.method import METHOD
from eoforge.methods.fl_rs.report import comparison_page, print_table
from eoforge.methods.seeds import overrides_of, parser_of, refuse_seed, row_of
from eoforge.storage.addresses import TableRef

QUALITY = ("f1_micro", "f1_macro", "f1_weighted", "map_micro", "map_macro")
SILO_COUNTS = (4, 8, 16, 32)
_REPEATS = 5
TARGET_SHARE = 0.95
"""Target as a share of FedAvg's best validation F1 on the same scenario and backbone."""
_SGD = {"optimizer": "sgd", "learning_rate": "0.05", "momentum": "0.9", "clip": "10.0"}
"""Settings of algorithms that need SGD under a preset with Adam; ``clip`` is that of FedDC's released code."""


def config_of(algorithm: str, scenario: str, backbone: str, preset: str, overrides: Mapping[str, str]) -> Config:
    """Settings of one run: the preset, ``key=value`` for all, then ``algorithm:key=value`` for one.

    Raises:
        UsageError: A key or value is unknown.
    """
    common = {k: v for k, v in overrides.items() if ":" not in k}
    own = {k.partition(":")[2]: v for k, v in overrides.items() if k.startswith(f"{algorithm}:")}
    chosen = {**common, "algorithm": algorithm, "scenario": scenario, "backbone": backbone}
    if strategy_type(algorithm).needs_sgd and build_config(Config, preset, common).optimizer != "sgd":
        chosen |= _SGD
    return build_config(Config, preset, {**chosen, **own})


def compare(
    table: TableRef,
    out: Path,
    *,
    algorithms: Sequence[str] = ALGORITHMS,
    scenarios: Sequence[str] = SCENARIOS,
    backbones: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    preset: str = "tiny",
    overrides: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Figures of the comparison, also written as ``comparison.json`` and ``comparison.html`` below ``out``.

    Args:
        table: A patches table.
        out: Folder of runs and reports.
        algorithms: Names of algorithms.
        scenarios: Names of scenarios.
        backbones: Names of backbones; the preset's if empty.
        seeds: Seeds of the runs of each row.
        preset: ``tiny`` or ``paper``.
        overrides: Settings, see :func:`config_of`.

    Raises:
        UsageError: A name is unknown.
    """
    table = table.pinned()
    given = dict(overrides or {})
    refuse_seed(given)
    unknown = {k.partition(":")[0] for k in given if ":" in k} - set(ALGORITHMS)
    if unknown:
        raise UsageError(f"overrides name {', '.join(sorted(unknown))}; the algorithms are {', '.join(ALGORITHMS)}")
    names = backbones or (build_config(Config, preset, {}).backbone,)
    shared: dict[tuple[Any, ...], Images] = {}
    runs = []
    for backbone, scenario, algorithm in itertools.product(names, scenarios, algorithms):
        seeded = [{**given, "seed": str(seed)} for seed in seeds]
        configs = [config_of(algorithm, scenario, backbone, preset, each) for each in seeded]
        runs.append(row_of(METHOD.name, configs, table, out / "runs", partial(_run, table=table, shared=shared)))
    add_targets(runs)
    scaling = [scale(config_of(a, scenarios[0], names[0], preset, given)) for a in algorithms]
    result = {
        "table": str(table),
        "preset": preset,
        "seeds": list(seeds),
        "overrides": given,
        "runs": runs,
        "scaling": scaling,
        "recommendation": recommend(runs),
    }
    (out / "comparison.json").write_text(json.dumps(result, indent=2) + "\n")
    (out / "comparison.html").write_text(comparison_page(result))
    return result


def _run(config: Config, table: TableRef, shared: dict[tuple[Any, ...], Images]) -> dict[str, Any]:
    key = config.bands, config.size, config.interpolation
    if key not in shared:
        shared[key] = images_of(table, config, normalisation_of(table, config.bands_read))
    played = play(METHOD, config, table, images=shared[key])
    patches = config.local_epochs * config.fraction * sum(s.examples for s in played.silos)
    # The median: the first round also reads the patches and loads libraries.
    local = float(np.median([row["local_seconds"] for row in played.history]))
    return {
        "algorithm": config.algorithm,
        "scenario": config.scenario,
        "backbone": config.backbone,
        "optimizer": config.optimizer,
        "rounds": config.rounds,
        "silos": len(played.silos),
        "local_ms_per_patch": 1e3 * local / patches,  # per patch, so that scenarios with more silos compare
        "aggregation_seconds": float(np.median([row["aggregation_seconds"] for row in played.history])),
        "bytes_per_round": played.traffic["down"] + played.traffic["up"],
        "bytes_factor": (played.traffic["down"] + played.traffic["up"]) / (played.traffic["model"] * len(played.silos)),
        "test": played.test,
        "personal": played.personal,
        "curve": [row.get("validation_f1_micro") for row in played.history],
        "skew": played.skew,
    }


def add_targets(runs: list[dict[str, Any]]) -> None:
    """Addition of ``target``, ``rounds_to_target`` and ``bytes_to_target`` (None if not reached) to every run."""
    for run in runs:
        peers = [r for r in runs if (r["scenario"], r["backbone"]) == (run["scenario"], run["backbone"])]
        reference = next((r for r in peers if r["algorithm"] == "fedavg"), peers[0])
        scores = [value for value in reference["curve"] if value is not None]
        target = TARGET_SHARE * max(scores) if scores else None
        run["target"] = target
        run["rounds_to_target"] = reached = _rounds_to(target, run["curve"])
        run["bytes_to_target"] = reached and reached * run["bytes_per_round"]


def _rounds_to(target: float | None, curve: Sequence[float | None]) -> int | None:
    """First round from which on no score is below ``target``.

    A first crossing is not enough: a model that has learned the frequent labels alone scores well for some rounds.
    """
    below = [i for i, score in enumerate(curve, 1) if target is None or score is None or score < target]
    rounds = below[-1] + 1 if below else 1
    return rounds if rounds <= len(curve) else None


def scale(config: Config, counts: Sequence[int] = SILO_COUNTS) -> dict[str, Any]:
    """Time of the server's reduction and size of its state by number of silos, on random updates."""
    specs, model = first_model(METHOD.build(config))
    strategy = config.strategy()
    seconds, state_bytes = [], []
    for count in counts:
        silos = [SiloInfo(f"silo-{i:03d}", 100, config.modality) for i in range(count)]
        federation = begin(strategy, specs, model, silos)
        rng = np.random.Generator(np.random.Philox(key=count))
        updates = {
            s.id: {
                name: (1e-3 * rng.standard_normal(spec.shape)).astype(spec.dtype)
                for name, spec in strategy.upload(s, federation.specs).items()
            }
            for s in silos
        }
        infos = tuple(UpdateInfo(s.id, 100, 10, frozenset(updates[s.id]), {NORMALISER: 10.0}) for s in silos)
        source = MemorySource(federation.tensors, updates)
        times = []
        for _ in range(_REPEATS):
            begun = time.perf_counter()
            reduction = strategy.reduction(RoundInfo(0, tuple(silos), infos), federation.specs, source)
            for output in reduction.outputs:
                combine([Part(output, 0, output.spec.size)], source)
            times.append(time.perf_counter() - begun)
        seconds.append(min(times))  # what else the machine does only adds
        state_bytes.append(sum(t.nbytes for t in federation.tensors.values()))
    exponent = float(np.polyfit(np.log(counts), np.log(seconds), 1)[0])
    return {
        "algorithm": config.algorithm,
        "silos": list(counts),
        "seconds": seconds,
        "state_bytes": state_bytes,
        "exponent": exponent,
    }


CLOSE = 0.01
"""Margin of weighted F1: within it, or within the deviation over seeds, an algorithm is as good as the best one."""


def recommend(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Best algorithm per scenario and backbone, and the cheapest of those that are as good (see ``CLOSE``).

    The cheapest has the fewest bytes to the target (infinite if not reached), then the least work in a round.
    """
    advice = []
    for backbone, scenario in dict.fromkeys((r["backbone"], r["scenario"]) for r in runs):
        peers = [r for r in runs if (r["scenario"], r["backbone"]) == (scenario, backbone)]
        best = max(peers, key=lambda r: r["test"]["f1_weighted"])
        within = max(CLOSE, best["deviation"]["f1_weighted"])
        close = [r for r in peers if r["test"]["f1_weighted"] >= best["test"]["f1_weighted"] - within]
        chosen = min(close, key=lambda r: (_bytes(r), _work(r)))
        fastest = [r for r in peers if r["rounds_to_target"] is not None]
        advice.append(
            {
                "scenario": scenario,
                "backbone": backbone,
                "label_divergence": best["skew"]["label_divergence"],
                "best": best["algorithm"],
                "best_f1_weighted": best["test"]["f1_weighted"],
                "within": within,
                "recommended": chosen["algorithm"],
                "recommended_f1_weighted": chosen["test"]["f1_weighted"],
                "because": "fewer bytes to the target" if _bytes(chosen) < _bytes(best) else "less work in a round",
                "fewest_rounds": min(fastest, key=lambda r: r["rounds_to_target"])["algorithm"] if fastest else None,
            }
        )
    return advice


def _bytes(run: Mapping[str, Any]) -> float:
    """Bytes to the target; infinite if not reached."""
    return float("inf") if run["bytes_to_target"] is None else float(run["bytes_to_target"])


def _work(run: Mapping[str, Any]) -> float:
    """Seconds of one pass over all silos' patches and of one reduction."""
    patches = sum(silo["patches"] for silo in run["skew"]["silos"])
    return float(run["local_ms_per_patch"] / 1e3 * patches + run["aggregation_seconds"])


def main() -> None:
    """Entry point of the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--algorithms", default=",".join(ALGORITHMS))
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--backbones", default="")
    given = parser.parse_args()
    names = {n: tuple(filter(None, getattr(given, n).split(","))) for n in ("algorithms", "scenarios", "backbones")}
    overrides = overrides_of(given)
    print_table(compare(given.data, given.out, seeds=given.seeds, preset=given.preset, overrides=overrides, **names))
    print(f"report: {given.out / 'comparison.html'}")


if __name__ == "__main__":
    main()
