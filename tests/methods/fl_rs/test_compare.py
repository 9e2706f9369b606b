"""The comparison as a command: criteria, resumption, targets and the recommendation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eoforge.errors import UsageError
from eoforge.methods.fl_rs.compare import QUALITY, add_targets, compare, config_of, recommend, scale
from eoforge.methods.fl_rs.config import ALGORITHMS
from eoforge.methods.fl_rs.method import METHOD
from eoforge.methods.seeds import averaged, figure_text

SMALL = {"rounds": "2", "local_epochs": "1", "width": "8", "size": "20", "bits": "16", "batch_size": "16"}


def config(**overrides: str) -> Any:
    return METHOD.config("tiny", {**SMALL, **overrides})


@pytest.fixture(scope="module")
def compared(table, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("compared")
    kinds = {"algorithms": ("fedavg", "scaffold"), "scenarios": ("ds1", "ds2"), "backbones": ("tiny", "tiny_bn")}
    return out, compare(table, out, **kinds, overrides=SMALL)


def test_the_comparison_measures_five_criteria_and_recommends(compared) -> None:
    out, result = compared
    assert len(result["runs"]) == 8
    for run in result["runs"]:
        assert run["local_ms_per_patch"] > 0
        assert run["aggregation_seconds"] > 0
        assert run["bytes_per_round"] > 0
        assert "rounds_to_target" in run
        assert set(QUALITY) < set(run["test"])
    factor = {run["algorithm"]: run["bytes_factor"] for run in result["runs"] if run["backbone"] == "tiny"}
    assert factor["scaffold"] > 1.8 * factor["fedavg"]
    assert [s["algorithm"] for s in result["scaling"]] == ["fedavg", "scaffold"]
    assert {(a["scenario"], a["backbone"]) for a in result["recommendation"]} == {
        (s, b) for s in ("ds1", "ds2") for b in ("tiny", "tiny_bn")
    }
    page = (out / "comparison.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/png") == 4 + 2
    assert json.loads((out / "comparison.json").read_text())["runs"] == result["runs"]


def test_a_comparison_goes_on_with_what_is_missing(compared, table, monkeypatch: pytest.MonkeyPatch) -> None:
    out, result = compared
    from eoforge.methods.fl_rs import compare as module

    def never(*_: Any) -> Any:
        raise AssertionError("a finished run was run again")

    monkeypatch.setattr(module, "play", never)
    kinds = {"algorithms": ("fedavg",), "scenarios": ("ds1",), "backbones": ("tiny",)}
    again = compare(table, out, **kinds, overrides=SMALL)
    assert again["runs"][0]["test"] == result["runs"][0]["test"]
    with pytest.raises(UsageError, match="overrides name fedsgd"):
        compare(table, out, overrides={"fedsgd:mu": "1"})
    with pytest.raises(UsageError, match="by --seeds"):
        compare(table, out, overrides={"seed": "1"})


def test_algorithms_that_need_sgd_get_it_under_adam() -> None:
    scaffold = config_of("scaffold", "ds1", "tiny", "paper", {})
    assert (scaffold.optimizer, scaffold.clip) == ("sgd", 10.0)
    assert config_of("fedavg", "ds1", "tiny", "paper", {}).optimizer == "adam"
    own = config_of("fedprox", "ds1", "tiny", "tiny", {"fedprox:mu": "0.5", "moon:mu": "2"})
    assert own.mu == 0.5


def test_targets_and_recommendation_follow_the_figures() -> None:
    def run(algorithm: str, curve: list[float], weighted: float, size: int) -> dict[str, Any]:
        return {
            "algorithm": algorithm,
            "scenario": "ds1",
            "backbone": "tiny",
            "curve": curve,
            "test": {"f1_weighted": weighted},
            "deviation": {"f1_weighted": 0.0},
            "bytes_per_round": size,
            "local_ms_per_patch": 1.0,
            "aggregation_seconds": 0.1,
            "skew": {"label_divergence": 0.1, "silos": [{"patches": 100}]},
        }

    runs = [
        run("fedavg", [0.1, 0.4, 0.6], 0.6, 10),
        run("moon", [0.58, 0.58, 0.6], 0.605, 10),
        run("feddc", [0.9, 0.1, 0.1], 0.5, 20),
    ]
    add_targets(runs)
    assert [r["rounds_to_target"] for r in runs] == [3, 1, None]
    assert [r["bytes_to_target"] for r in runs] == [30, 10, None]
    advice = recommend(runs)[0]
    assert (advice["best"], advice["recommended"], advice["fewest_rounds"]) == ("moon", "moon", "moon")
    runs[1]["bytes_to_target"] = 90
    advice = recommend(runs)[0]  # as good within a point, and cheaper
    assert (advice["recommended"], advice["because"]) == ("fedavg", "fewer bytes to the target")
    # Equal bytes: whoever keeps silos and server less busy, even if its silos alone are slower.
    runs[1] |= {"bytes_to_target": 30, "local_ms_per_patch": 0.9, "aggregation_seconds": 90.0}
    advice = recommend(runs)[0]
    assert (advice["recommended"], advice["because"]) == ("fedavg", "less work in a round")
    # Whatever lies within the spread of the best one's seeds is as good as it.
    runs[0]["test"]["f1_weighted"] = 0.55
    assert recommend(runs)[0]["recommended"] == "moon"
    runs[1]["deviation"]["f1_weighted"] = 0.06
    assert recommend(runs)[0]["recommended"] == "fedavg"


def test_rows_are_means_over_seeds_with_their_spread(compared, table) -> None:
    runs = [{"test": {"s1_f1": f}, "curve": [None, f], "silos": 2, "skew": {"a": [{"b": f}]}} for f in (0.2, 0.4)]
    both = averaged(runs)
    assert both["test"]["s1_f1"] == pytest.approx(0.3)
    assert both["curve"] == [None, pytest.approx(0.3)]
    assert (both["silos"], both["skew"]) == (2, {"a": [{"b": pytest.approx(0.3)}]})
    assert figure_text(both, "s1_f1") == "0.300 ± 0.141"
    assert figure_text(averaged(runs[:1]), "s1_f1") == "0.200"
    out, _ = compared
    kinds = {"algorithms": ("fedavg",), "scenarios": ("ds1",), "backbones": ("tiny",)}
    rows = [compare(table, out, **kinds, seeds=s, overrides=SMALL)["runs"][0] for s in ((0,), (1,), (0, 1))]
    micro = [row["test"]["f1_micro"] for row in rows]
    assert micro[2] == pytest.approx((micro[0] + micro[1]) / 2)


def test_server_cost_grows_with_silos_and_fastest_for_personal_models() -> None:
    plain, personal = (scale(config(algorithm=a), counts=(2, 8)) for a in ("fedavg", "pfedla"))
    assert plain["state_bytes"][0] == plain["state_bytes"][1]
    assert personal["state_bytes"][1] > 3 * personal["state_bytes"][0]
    assert set(ALGORITHMS) >= {"fedavg", "pfedla"}
