"""Settings: presets, files, overrides, and error texts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from eoforge.config import build_config, from_dict
from eoforge.errors import UsageError
from eoforge.methods import METHODS, MethodEntry, get_method
from eoforge.methods.ss_cm_rsir.config import Config


def test_overrides_are_parsed_by_type() -> None:
    overrides = {
        "bits": "64",
        "learning_rate": "3e-4",
        "flips": "no",
        "s2_bands": "B04, B03,B02",
        "interpolation": "bilinear",
        "patience": "3",
    }
    config = build_config(Config, "tiny", overrides)
    assert (config.bits, config.learning_rate, config.flips) == (64, 3e-4, False)
    assert config.s2_bands == ("B04", "B03", "B02")
    assert (config.interpolation, config.patience, config.backbone) == ("bilinear", 3, "tiny")
    assert build_config(Config, "paper", {"patience": "none"}).patience is None


@pytest.mark.parametrize("suffix", ["toml", "json", "yaml"])
def test_overrides_win_over_the_file_and_the_file_over_the_preset(tmp_path: Path, suffix: str) -> None:
    text = {
        "toml": 'epochs = 7\nbits = 32\ns1_bands = ["VH"]\nlearning_rate = 1\n',
        "json": json.dumps({"epochs": 7, "bits": 32, "s1_bands": ["VH"], "learning_rate": 1}),
        "yaml": "epochs: 7\nbits: 32\ns1_bands: [VH]\nlearning_rate: 1\n",
    }[suffix]
    path = tmp_path / f"c.{suffix}"
    path.write_text(text)
    config = build_config(Config, "tiny", {"bits": "48"}, str(path))
    assert (config.epochs, config.bits, config.s1_bands, config.learning_rate) == (7, 48, ("VH",), 1.0)
    assert isinstance(config.learning_rate, float)


@pytest.mark.parametrize(
    ("preset", "overrides", "says"),
    [
        ("huge", {}, "preset must be one of tiny, paper"),
        ("tiny", {"epoch": "3"}, "unknown setting 'epoch'; the settings are .*epochs"),
        ("tiny", {"epochs": "3.5"}, "epochs must be a whole number; got '3.5'"),
        ("tiny", {"epochs": "0"}, "epochs must be greater than 0"),
        ("tiny", {"learning_rate": "fast"}, "learning_rate must be a number"),
        ("tiny", {"learning_rate": "nan"}, "learning_rate must be greater than 0"),
        ("tiny", {"flips": "maybe"}, "true or false"),
        ("tiny", {"interpolation": "cubic"}, "one of nearest, bilinear"),
        ("tiny", {"bits": "20"}, "multiple of 8 between 16 and 512"),
        ("tiny", {"s2_bands": "B02,VV"}, "bands of s2"),
        ("tiny", {"backbone": "vgg"}, "backbone must be one of"),
        ("tiny", {"patience": "0"}, "at least 1, or none"),
        ("tiny", {"seed": "-1"}, "must not be negative"),
    ],
)
def test_invalid_values_are_named(preset: str, overrides: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        build_config(Config, preset, overrides)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("c.toml", "epochs = true", "epochs in .* must be a whole number; got True"),
        ("c.toml", "epochs = ", "cannot be read"),
        ("c.json", "[1]", "settings by name"),
        ("c.yaml", "a: [", "cannot be read"),
        ("c.yaml", "s1_bands: VV", "must be a list"),
        ("c.ini", "", "ends in"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=says):
        build_config(Config, "tiny", {}, str(tmp_path / name))
    with pytest.raises(UsageError, match="no config file"):
        build_config(Config, "tiny", {}, str(tmp_path / "absent.toml"))


def test_a_config_survives_the_bundle() -> None:
    config = Config.tiny()
    assert from_dict(Config, json.loads(json.dumps(dataclasses.asdict(config)))) == config
    with pytest.raises(UsageError, match="unknown setting 'teacher'"):
        from_dict(Config, {"teacher": 1})


def test_methods_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_method("ss_cm_rsir").name == "ss_cm_rsir"
    assert get_method("ss_cm_rsir").config("paper", {}) == Config.paper()
    with pytest.raises(UsageError, match="unknown method 'resnet'; the methods are reben"):
        get_method("resnet")
    monkeypatch.setitem(METHODS, "planned", MethodEntry((), None))
    with pytest.raises(UsageError, match="not built yet"):
        get_method("planned")


def test_epochs_bound_every_stage() -> None:
    csmae, jcif = get_method("csmae"), get_method("rs_jcif")
    assert (csmae.config("tiny", {"epochs": "2"}).hash_epochs, csmae.config("tiny", {}).hash_epochs) == (2, 20)
    assert csmae.config("tiny", {"epochs": "2", "hash_epochs": "5"}).hash_epochs == 5
    assert csmae.config("paper", {"epochs": "100"}).hash_epochs == 25
    assert (jcif.config("tiny", {"epochs": "3"}).joint_epochs, jcif.config("tiny", {}).joint_epochs) == (3, 8)
