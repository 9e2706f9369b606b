"""Adjacency of the regions of a map, against a loop."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from eoforge.data.labels import IGNORE_INDEX
from eoforge.methods.noise_robust.relations import count_of, relations

L, SIDE = 4, 6


def by_loop(map_SS: torch.Tensor) -> list[float]:
    places = {c: [(r, k) for r in range(SIDE) for k in range(SIDE) if map_SS[r, k] == c] for c in range(L)}
    total = sum(map(len, places.values()))
    unit = math.sqrt(2) * (SIDE - 1)
    found = []
    for i, j in itertools.combinations_with_replacement(range(L), 2):
        if not places[i] or not places[j]:
            found.append(0.0)
            continue
        centres = [[sum(p[axis] for p in places[c]) / len(places[c]) / unit for axis in (0, 1)] for c in (i, j)]
        share = (len(places[i]) + len(places[j])) / 2 / total
        found.append(share * (1 - math.dist(*centres)))
    return found


def test_against_a_loop() -> None:
    maps = torch.randint(L, (5, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    maps[0] = 2  # one region
    maps[1, :3] = IGNORE_INDEX
    maps[2, maps[2] == 3] = 0
    found = relations(maps, L)
    assert found.shape == (5, count_of(L)) == (5, 10)
    for row, map_SS in zip(found, maps, strict=True):
        assert row.tolist() == pytest.approx(by_loop(map_SS), abs=1e-6)


def test_nearer_and_larger_regions_have_stronger_edges() -> None:
    near, far = torch.full((2, 8, 8), IGNORE_INDEX)
    near[0, 0] = far[0, 0] = 0
    near[0, 1] = far[7, 7] = 1
    both = relations(torch.stack([near, far]), 2)
    assert both[0, 1] > both[1, 1] == pytest.approx(0, abs=1e-6)
    assert both[0, 0] == both[0, 2] == 0.5


def test_a_map_without_classes_has_no_relations() -> None:
    found = relations(torch.full((1, SIDE, SIDE), IGNORE_INDEX), L)
    assert found.abs().sum() == 0
    assert torch.isfinite(found).all()


def test_the_numbers_are_those_of_the_paper() -> None:
    assert count_of(17) == 153
