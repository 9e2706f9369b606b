"""Fixtures of the tests of methods: a small table of synthetic patches."""

from __future__ import annotations

from tests.methods.conftest import _one_thread, pairs, table  # noqa: F401
