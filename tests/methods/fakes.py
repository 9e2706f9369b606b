"""Base of method objects that tests register: settings, and a training that nobody calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Settings:
    """Settings with both presets."""

    size: int = 120

    @classmethod
    def tiny(cls) -> Settings:
        return cls()

    paper = tiny


class RegisteredMethod:
    """What every method offers; a test adds the functions of its tasks."""

    config_type: Any = Settings

    def config(self, preset: str, overrides: Mapping[str, str], file: str | None = None) -> Settings:
        return Settings()

    def train(self, data: object, out: str, config: Any, *, resume: bool = True) -> Any:
        raise NotImplementedError("this method is loaded, not trained")
