"""Comparison of two run bundles: settings that differ, and figures side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from eoforge.bundle.curves import scalar_metrics
from eoforge.bundle.reader import Bundle

_ABSENT = "not set"


@dataclass(frozen=True)
class Comparison:
    """Difference of two bundles.

    Attributes:
        settings: Dotted name and JSON text in either bundle, of each setting of ``config.json`` that differs.
        metrics: Name and value in either bundle, of each finite number of ``metrics.json``; None where absent.
    """

    settings: list[tuple[str, str, str]]
    metrics: list[tuple[str, float | None, float | None]]


def compare_bundles(first: Bundle, second: Bundle) -> Comparison:
    """Settings and figures of two bundles side by side."""
    left, right = (dict(_flat(bundle.config)) for bundle in (first, second))
    settings = [
        (name, left.get(name, _ABSENT), right.get(name, _ABSENT))
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
    ]
    a, b = scalar_metrics(first.metrics), scalar_metrics(second.metrics)
    return Comparison(settings, [(name, a.get(name), b.get(name)) for name in sorted(a.keys() | b.keys())])


def _flat(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, content in value.items():
        if isinstance(content, Mapping) and content:
            yield from _flat(content, f"{above}{name}.")
        else:
            yield above + name, json.dumps(content)
