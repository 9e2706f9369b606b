"""The arithmetic of secure aggregation, and what a silo refuses to reveal."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import DataRefused, UsageError
from eoforge.federated.privacy import secagg
from eoforge.federated.privacy.silo_masks import Masking


@settings(max_examples=20)
@given(st.binary(min_size=32, max_size=32), st.integers(2, 7), st.data())
def test_any_threshold_of_shares_gives_the_secret(secret: bytes, count: int, data: st.DataObject) -> None:
    threshold = data.draw(st.integers(1, count))
    shares = dict(enumerate(secagg.split(secret, count, threshold), 1))
    chosen = data.draw(st.permutations(sorted(shares)))[:threshold]
    assert secagg.combine_shares({x: shares[x] for x in chosen}, threshold) == secret


def test_too_few_or_false_shares_are_refused() -> None:
    shares = dict(enumerate(secagg.split(b"s" * 32, 5, 3), 1))
    with pytest.raises(DataRefused, match="3 shares are needed"):
        secagg.combine_shares({1: shares[1], 2: shares[2]}, 3)
    with pytest.raises(DataRefused, match="false"):
        secagg.combine_shares({1: shares[1], 2: shares[2], 3: bytes(secagg.SHARE_BYTES)}, 3)


@given(st.integers(0, 90), st.integers(0, 90))
def test_a_slice_of_a_mask_is_that_slice(start: int, stop: int) -> None:
    start, stop = sorted((start, stop))
    whole = secagg.mask_words(b"m" * 32, "w", 0, 90)
    assert np.array_equal(secagg.mask_words(b"m" * 32, "w", start, stop), whole[start:stop])


def test_masks_of_two_tensors_and_two_rounds_differ() -> None:
    a, b = secagg.new_key(), secagg.new_key()
    seeds = [secagg.pair_seed(a, secagg.public_key(b), "run", n) for n in (1, 2)]
    assert seeds[0] != seeds[1]
    assert seeds[0] == secagg.pair_seed(b, secagg.public_key(a), "run", 1)
    assert not np.array_equal(secagg.mask_words(seeds[0], "w", 0, 9), secagg.mask_words(seeds[0], "v", 0, 9))


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=9), st.floats(0.1, 100))
def test_fixed_point_numbers_round_to_their_last_bit(values: list[float], share: float) -> None:
    array = np.array(values)
    got = secagg.decode(secagg.encode(array, share, 24), 24)
    assert np.abs(got - array * share).max() <= 2.0**-25 * (1 + 1e-6) + 1e-9


def test_sums_that_could_wrap_are_refused() -> None:
    with pytest.raises(UsageError, match="fraction_bits"):
        secagg.check_headroom(1e6, 1e5, 100, 40)
    secagg.check_headroom(10.0, 1.0, 100, 40)


def round_of(
    folder: Path, names: list[str], threshold: int
) -> tuple[dict[str, Masking], pb.Task, dict[str, pb.SharesAnswer]]:
    silos = {}
    for name in names:
        (folder / name).mkdir()
        silos[name] = Masking(folder / name, "run", 1, name)
    task = pb.Task(threshold=threshold, data=pb.DataContract(max_update_norm=100))
    for name, masking in silos.items():
        task.mask_keys[name].CopyFrom(masking.keys())
    return silos, task, {name: masking.shares(task) for name, masking in silos.items()}


def test_a_silo_reveals_for_one_set_of_survivors_only(tmp_path: Path) -> None:
    """Seed and key of one silo together would show its update: a server that asks twice gets nothing more."""
    silos, task, shares = round_of(tmp_path, ["a", "b", "c", "d"], 3)
    task.shares.extend(s for answer in shares.values() for s in answer.shares if s.recipient == "a")
    task.survivors.extend(["a", "b", "c"])
    first = silos["a"].unmask(task)
    assert silos["a"].unmask(task) == first
    task.survivors[:] = ["a", "c", "d"]
    with pytest.raises(UsageError, match="other survivors"):
        Masking(tmp_path / "a", "run", 1, "a").unmask(task)  # after a restart too


def test_a_silo_refuses_thresholds_and_survivors_that_do_not_protect(tmp_path: Path) -> None:
    silos, task, shares = round_of(tmp_path, ["a", "b", "c", "d"], 3)
    task.shares.extend(s for answer in shares.values() for s in answer.shares if s.recipient == "a")
    task.survivors.extend(["a", "b"])
    with pytest.raises(UsageError, match="threshold"):
        silos["a"].unmask(task)
    task.threshold = 2
    with pytest.raises(UsageError, match="threshold"):
        silos["b"].shares(task)


def test_a_silo_neither_masks_nor_unmasks_a_sum_of_two(tmp_path: Path) -> None:
    silos, task, shares = round_of(tmp_path, ["a", "b", "c"], 2)
    task.shares.extend(s for answer in shares.values() for s in answer.shares if s.recipient == "a")
    task.survivors.extend(["a", "b"])
    with pytest.raises(UsageError, match="threshold of 3"):
        silos["a"].unmask(task)
    del task.mask_keys["c"]
    with pytest.raises(UsageError, match="agreed on masks"):
        silos["a"].mask({"delta/w": np.zeros(8, np.float32)}, task, 1.0)


def test_what_a_silo_said_is_flushed_before_anyone_hears_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut must not make it reveal for other survivors: the file and its name are on the disk first."""
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    silos, task, shares = round_of(tmp_path, ["a", "b", "c"], 2)
    task.shares.extend(s for answer in shares.values() for s in answer.shares if s.recipient == "a")
    task.survivors.extend(["a", "b", "c"])
    flushed.clear()
    silos["a"].unmask(task)
    assert flushed == [str(tmp_path / "a" / "masking-1.partial"), str(tmp_path / "a")]


def test_one_masked_update_looks_like_noise(tmp_path: Path) -> None:
    silos, task, _ = round_of(tmp_path, ["a", "b", "c"], 2)
    words = silos["a"].mask({"delta/w": np.zeros(4096, np.float32)}, task, 1.0)["delta/w"]
    ones = np.unpackbits(words.view(np.uint8)).mean()
    assert 0.49 < ones < 0.51


def test_nan_is_refused_before_it_is_masked(tmp_path: Path) -> None:
    silos, task, _ = round_of(tmp_path, ["a", "b", "c"], 2)
    with pytest.raises(DataRefused, match="NaN"):
        silos["a"].mask({"delta/w": np.array([np.nan], np.float32)}, task, 1.0)


def test_shares_are_made_once(tmp_path: Path) -> None:
    """Each key encrypts with the same nonce: two sets of shares under it would show how they differ."""
    _, task, shares = round_of(tmp_path, ["a", "b", "c"], 2)
    again = Masking(tmp_path / "a", "run", 1, "a")  # the task came again after a restart
    assert again.shares(task) == shares["a"]
    task.mask_keys["b"].share_key = secagg.public_key(secagg.new_key())
    with pytest.raises(UsageError, match="other silos"):
        again.shares(task)


def test_a_silo_masks_with_those_that_hold_its_shares_only(tmp_path: Path) -> None:
    silos, task, _ = round_of(tmp_path, ["a", "b", "c", "d"], 3)
    update = {"delta/w": np.zeros(8, np.float32)}
    del task.mask_keys["d"]  # it vanished before it deposited shares
    silos["a"].mask(update, task, 1.0)
    task.mask_keys["b"].mask_key = secagg.public_key(secagg.new_key())
    with pytest.raises(UsageError, match="agreed on masks"):
        silos["a"].mask(update, task, 1.0)
    task.mask_keys.clear()
    with pytest.raises(UsageError, match="agreed on masks"):
        silos["a"].mask(update, task, 1.0)


@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
def test_a_silo_does_not_mask_among_too_few(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(UsageError, match="fewer than 3"):
        round_of(tmp_path, names, len(names))


def test_secrets_of_a_round_are_forgotten_with_the_next(tmp_path: Path) -> None:
    first = Masking(tmp_path, "run", 1, "a").keys()
    Masking(tmp_path, "run", 2, "a").keys()
    assert [path.name for path in tmp_path.iterdir()] == ["masking-2.json"]
    assert Masking(tmp_path, "run", 1, "a").keys() != first


def test_noise_of_differential_privacy_is_not_clipped_away(tmp_path: Path) -> None:
    """A million elements of unit noise have norm 1000, far above the clip norm; the update must keep its size."""
    silos, task, _ = round_of(tmp_path, ["a", "b", "c"], 2)
    task.privacy.dp, task.privacy.clip_norm, task.privacy.noise_multiplier = pb.DP_MODE_SILO, 1.0, 1.0
    noised = np.random.default_rng(0).standard_normal(1 << 16).astype(np.float32)
    words = [silos["a"].mask({"delta/w": x}, task, 1.0)["delta/w"] for x in (noised, np.zeros_like(noised))]
    np.testing.assert_allclose(secagg.decode(words[0] - words[1], 24), noised, atol=1e-6)
