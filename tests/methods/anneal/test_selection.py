"""Pools and batches: nothing twice, half near and half far, uncertain and diverse, equal for equal seeds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eoforge.methods.anneal.config import Config
from eoforge.methods.anneal.pool import bootstrap, keys, normal, pool_pairs, random_pairs
from eoforge.methods.anneal.selection import Scored, badge, choose, k_center, most_uncertain, uncertain_and_diverse

CONFIG = replace(Config.tiny(), anchors=50, neighbours=4, strangers=4)
NONE = np.empty((0, 2), np.int64)


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    """400 codes of 64 bits in eight clusters: within one of them few bits differ."""
    rng = np.random.default_rng(0)
    centres = rng.integers(256, size=(8, 8), dtype=np.uint8)
    flips = np.packbits(rng.random((400, 64)) < 0.03, axis=1)
    return centres[np.arange(400) % 8] ^ flips


def test_the_first_batch_is_half_near_and_half_far(codes: np.ndarray) -> None:
    pairs = bootstrap(codes, 40, np.random.default_rng(1))
    same = pairs[:, 0] % 8 == pairs[:, 1] % 8
    assert pairs.shape == (40, 2)
    assert (same[:20].all(), same[20:].any()) == (True, False)
    assert len(np.unique(keys(pairs, 400))) == 40


def test_a_first_batch_of_a_tiny_archive_is_filled_at_random() -> None:
    codes = np.arange(5, dtype=np.uint8)[:, None]
    pairs = bootstrap(codes, 10, np.random.default_rng(0))
    assert sorted(map(tuple, pairs.tolist())) == [(i, j) for i in range(5) for j in range(i + 1, 5)]


def test_the_pool_has_near_and_random_pairs_and_none_that_was_asked(codes: np.ndarray) -> None:
    first = pool_pairs(codes, NONE, CONFIG, 1)
    assert 0.5 * 400 < len(first) <= 50 * 8
    same = (first[:, 0] % 8 == first[:, 1] % 8).mean()
    assert 0.35 < same < 0.7  # half by the index, and an eighth of the others
    assert (first[:, 0] < first[:, 1]).all()
    asked = first[::2, ::-1]  # in the other order too
    later = pool_pairs(codes, asked, CONFIG, 1)
    assert not np.isin(keys(later, 400), keys(normal(asked), 400)).any()
    assert len(later) == len(first) - len(asked)


def test_the_pool_depends_on_seed_and_batch_alone(codes: np.ndarray) -> None:
    first = pool_pairs(codes, NONE, CONFIG, 1)
    assert (pool_pairs(codes, NONE, CONFIG, 1) == first).all()
    for other in (pool_pairs(codes, NONE, CONFIG, 2), pool_pairs(codes, NONE, replace(CONFIG, seed=1), 1)):
        assert other.tolist() != first.tolist()


def test_random_pairs_end_with_the_last_pair() -> None:
    known = np.array([[0, 1], [2, 1]])
    found = random_pairs(4, 99, known, np.random.default_rng(0))
    assert sorted(map(tuple, found.tolist())) == [(0, 2), (0, 3), (1, 3), (2, 3)]


def scored(uncertainty: list[float], place: list[float]) -> Scored:
    count = len(uncertainty)
    place_P1 = np.array(place)[:, None]
    pairs = np.stack([np.arange(count), np.arange(count) + 100], axis=1)
    return Scored(pairs, np.array(uncertainty), place_P1, place_P1, np.full(count, 0.4))


def test_ties_of_uncertainty_go_to_the_first() -> None:
    assert most_uncertain(np.array([0.5, 0.9, 0.5, 0.9]), 3).tolist() == [1, 3, 0]


def test_of_each_cluster_the_most_uncertain_pair_is_chosen() -> None:
    pool = scored([0.9, 0.8, 0.7, 0.6, 0.5, 0.1], [0.0, 0.1, 5.0, 5.1, 9.0, 20.0])
    # The four most uncertain pairs lie at two places; the far but certain last one is not considered.
    assert uncertain_and_diverse(pool, 2, 2, seed=0).tolist() == [0, 2]
    assert uncertain_and_diverse(pool, 6, 1, seed=0).tolist() == [0, 1, 2, 3, 4, 5]


def test_equal_descriptors_still_fill_the_batch() -> None:
    pool = scored([0.5, 0.9, 0.8, 0.7], [1.0] * 4)
    with pytest.warns(Warning, match="distinct clusters"):
        chosen = uncertain_and_diverse(pool, 2, 2, seed=0)
    assert chosen.tolist() == [1, 2]


def test_k_center_takes_the_farthest_from_all_that_is_covered() -> None:
    points = np.array([[0.0], [1.0], [4.0], [9.0]])
    assert k_center(points, np.array([[0.2]]), 3).tolist() == [3, 2, 1]
    assert k_center(points, np.empty((0, 1)), 9).tolist() == [0, 3, 2, 1]


def test_badge_prefers_large_and_different_gradients() -> None:
    # The gradient of a certain pair is zero: of three places in the space of gradients two belong to uncertain pairs.
    features = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    pool = Scored(np.zeros((4, 2), np.int64), np.zeros(4), features, features, np.array([0.5, 1.0, 0.5, 1.0]))
    for seed in range(5):
        assert {0, 2} < set(badge(pool, 3, seed).tolist())
    assert badge(pool, 9, seed=0).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("strategy", ["anneal", "uncertainty", "diversity", "badge", "random"])
def test_every_strategy_fills_a_batch_once(strategy: str, codes: np.ndarray) -> None:
    config = replace(CONFIG, strategy=strategy)  # type: ignore[arg-type]  # one of the literals
    pairs = pool_pairs(codes, NONE, config, 1)
    rng = np.random.default_rng(0)
    features = rng.standard_normal((len(pairs), 6))
    pool = Scored(pairs, rng.random(len(pairs)), features, features, rng.random(len(pairs)))
    chosen = choose(pool, NONE, np.empty((0, 6)), 16, config, np.random.default_rng(5), 400)
    assert chosen.shape == (16, 2)
    assert len(np.unique(keys(chosen, 400))) == 16
    again = choose(pool, NONE, np.empty((0, 6)), 16, config, np.random.default_rng(5), 400)
    assert (again == chosen).all()
