"""Mutation testing: a fault in a formula is killed by its tests, and one that no test sees is shown as a diff."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import mutate

MODULE = "def seen() -> bool:\n    return True\n\n\ndef unseen() -> bool:\n    return True\n"
TEST = "from formula import seen, unseen\n\n\ndef test_it():\n    unseen()\n    assert seen()\n"


def test_survivors_are_the_faults_that_no_test_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small_checkout(checkout: Path) -> None:
        checkout.mkdir()
        (checkout / "formula.py").write_text(MODULE)
        (checkout / "test_formula.py").write_text(TEST)

    monkeypatch.setattr(mutate, "_copy", small_checkout)
    monkeypatch.setattr(mutate, "LIBRARIES", ("pytest",))
    tested, (survivor,) = mutate.run_suite(mutate.Suite(("formula.py",), ("test_formula.py",)), None, 0)
    assert tested == 2
    assert "unseen" in survivor
    assert "-    return True\n+    return False" in survivor


def test_suites_name_what_exists() -> None:
    for suite in mutate.SUITES.values():
        assert all((mutate.ROOT / path).exists() for path in (*suite.modules, *suite.tests))
