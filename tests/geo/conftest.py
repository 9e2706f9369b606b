"""Shares the official metadata with the tests of names."""

from __future__ import annotations

from tests.data.conftest import official

__all__ = ["official"]
