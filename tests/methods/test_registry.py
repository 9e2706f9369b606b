"""The registry: every method fits the interfaces of its tasks, and one that does not is refused by name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from eoforge.errors import EoforgeError
from eoforge.methods import METHODS, MethodEntry, Task, get_method
from tests.methods.fakes import RegisteredMethod, Settings


class Fitting(RegisteredMethod):
    name = "own"

    def load(self, bundle: object, device: str | None = None) -> None: ...

    def untrained(self, bundle: object, seed: int | None = None, device: str | None = None) -> None: ...

    def classifier(self, bundle: object, device: str | None = None) -> None: ...


class Lacking:
    name = "own"
    config_type: Any = Settings
    load = config = train = None


@dataclass
class Thawed:
    bits: int = 8


def changed(**attributes: Any) -> object:
    return type("Changed", (Fitting,), attributes)()


CASES: list[tuple[Callable[[], object], str]] = [
    (Lacking, r"every method needs train\(data, out, config, resume\), which it lacks"),
    (Lacking, r"task encode needs untrained\(bundle, seed, device\), which it lacks"),
    (lambda: changed(name="other"), "its name is 'other'"),
    (lambda: changed(config_type=dict), "config_type must be its dataclass of settings"),
    (lambda: changed(config_type=Thawed), r"Thawed must be frozen; Thawed lacks the preset tiny\(\)"),
    (lambda: changed(config_type=Thawed), "Thawed lacks size"),
    (
        lambda: changed(train=lambda self, data, out, config: None),
        "every method calls train.*unexpected keyword.*resume",
    ),
    (lambda: changed(load=lambda self, bundle: None), "task encode calls load.*too many positional arguments"),
]


@pytest.mark.parametrize("name", [name for name, entry in METHODS.items() if entry.path])
def test_every_built_method_fits_its_entry(name: str) -> None:
    assert get_method(name).name == name


def test_a_method_that_fits_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Fitting())
    assert isinstance(get_method("own"), Fitting)


@pytest.mark.parametrize(("make", "says"), CASES)
def test_a_method_that_does_not_fit_is_refused(
    make: Callable[[], object], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, make())
    with pytest.raises(EoforgeError, match=f"does not fit its entry: .*{says}"):
        get_method("own")


def test_a_path_without_the_object_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "own", MethodEntry((Task.ENCODE,), f"{__name__}:absent"))
    with pytest.raises(EoforgeError, match="that module has no absent"):
        get_method("own")


def register(monkeypatch: pytest.MonkeyPatch, method: object) -> None:
    monkeypatch.setattr(sys.modules[__name__], "CANDIDATE", method, raising=False)
    monkeypatch.setitem(METHODS, "own", MethodEntry((Task.ENCODE, Task.CLASSIFY), f"{__name__}:CANDIDATE"))
