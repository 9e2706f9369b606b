"""The reduction: the sum by hand, and the same bits however it is cut."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoforge.errors import DataRefused, NotFound
from eoforge.federated.privacy.dp import NoisySum, clip_factors, epsilon_after
from eoforge.federated.reduce import Part, StoredSource, Term, combine, weighted_sum, write_reduction
from eoforge.federated.robust import CentreCombiner, SelectedSum, median, multi_krum, slices, trimmed_mean
from eoforge.federated.store import chunk_store
from eoforge.federated.store.chunk_store import ChunkStore
from eoforge.federated.strategy import Add, Output, Reduction
from eoforge.storage.chunks import check_manifest, manifest_of
from eoforge.storage.objects import ObjectStore
from eoforge.storage.tensorfile import Array, Layout, TensorSpec

SIZE = 40


class Memory:
    """A source of plain arrays."""

    def __init__(self, updates: Mapping[str, Array], state: Array | None = None) -> None:
        self.updates, self.old = updates, state

    def update(self, silo: str, name: str, start: int, stop: int) -> Array:
        return self.updates[silo][start:stop]

    def state(self, name: str, start: int, stop: int) -> Array:
        assert self.old is not None
        return self.old[start:stop]


def source_of(silos: int, seed: int = 0) -> Memory:
    rng = np.random.default_rng(seed)
    return Memory(
        {f"s{i}": rng.standard_normal(SIZE).astype(np.float32) for i in range(silos)}, np.ones(SIZE, np.float32)
    )


def output(shares: Mapping[str, float], dtype: str = "float32") -> Output:
    spec = TensorSpec((SIZE,), dtype)
    return Output("model/w", spec, (("model/w", 1.0),), (Add("delta/w", 0.5, shares),))


def test_it_is_the_weighted_sum_in_float64_rounded_once() -> None:
    source, shares = source_of(3), {"s0": 1.0, "s1": 2.0, "s2": 3.0}
    (got,) = combine([Part(output(shares), 0, SIZE)], source)
    total = np.zeros(SIZE)
    for silo, share in shares.items():
        total = total + source.updates[silo].astype(np.float64) * share
    assert np.array_equal(got, (1.0 + total * 0.5).astype(np.float32))


@given(st.lists(st.integers(0, SIZE), max_size=6))
def test_the_bits_do_not_depend_on_the_slices(cuts: list[int]) -> None:
    source, made = source_of(4), output({f"s{i}": 0.1 + i for i in range(4)})
    (whole,) = combine([Part(made, 0, SIZE)], source)
    edges = sorted({0, SIZE, *cuts})
    parts = [Part(made, a, b) for a, b in itertools.pairwise(edges)]
    assert np.array_equal(np.concatenate(combine(parts, source)), whole)


def test_stored_files_give_the_same_bits_with_any_chunk_size_and_thread_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors straddle chunks; one group changes, a tensor of it that no one writes keeps its bytes."""
    specs = {"w": TensorSpec((SIZE,)), "kept": TensorSpec((7,), "int64", "counter")}
    memory = source_of(3)
    results = []
    for chunk, threads in ((4 << 20, 1), (256, 3)):
        for module in ("federated.store.chunk_store", "storage.tensorfile"):
            monkeypatch.setattr(f"eoforge.{module}.CHUNK_BYTES", chunk)
        store = ObjectStore(str(tmp_path / str(chunk)))
        with ThreadPoolExecutor(threads) as pool:
            here = ChunkStore(store, "objects")
            values = {"w": memory.old, "kept": np.arange(7)}
            model = here.open(here.write(Layout.of(specs), lambda w, v=values: [v[n][a:b] for n, a, b in w], pool))
            updates = {}
            for silo, array in memory.updates.items():
                folder = ChunkStore(store, silo)
                layout = Layout.of({"delta/w": TensorSpec((SIZE,))})
                updates[silo] = folder.open(folder.write(layout, lambda w, x=array: [x[a:b] for _, a, b in w], pool))
            state = {"model": model}
            reduction = Reduction((output({"s0": 1.0, "s1": 2.0, "s2": 0.5}),))
            written = write_reduction(reduction, state, StoredSource(updates, state), here, pool)
            new = here.open(written["model"])
            results.append(new.read("w", 0, SIZE).tobytes())
            assert np.array_equal(new.read("kept", 0, 7), np.arange(7))
    assert results[0] == results[1]
    assert results[0] == combine([Part(output({"s0": 1.0, "s1": 2.0, "s2": 0.5}), 0, SIZE)], memory)[0].tobytes()


def test_integers_are_rounded_not_cut() -> None:
    source = Memory({"s": np.array([1.9])}, np.array([0.0]))
    spec = TensorSpec((1,), "int64")
    made = Output("model/n", spec, (), (Add("delta/n", 1.0, {"s": 1.0}),))
    assert combine([Part(made, 0, 1)], source)[0].tolist() == [2]


@pytest.mark.parametrize(("name", "expected"), [("norm.running_var", 0.0), ("norm.running_mean", -3.0)])
def test_noise_makes_no_variance_negative(name: str, expected: float) -> None:
    source = Memory({"s": np.array([-4.0])}, np.array([1.0]))
    spec = TensorSpec((1,), role="statistic")
    made = Output(f"model/{name}", spec, (("model/w", 1.0),), (Add("delta/w", 1.0, {"s": 1.0}),))
    assert combine([Part(made, 0, 1)], source)[0].tolist() == [expected]


def test_objects_name_their_bytes(tmp_path: Path) -> None:
    here = ChunkStore(ObjectStore(str(tmp_path)), "objects")
    manifest = manifest_of([b"abc"], 3)
    assert here.missing(manifest) == [0]
    here.put_chunk(manifest.chunks[0], b"abc")
    assert here.missing(manifest) == []
    digest = here.put_manifest(manifest)
    assert here.manifest(digest) == manifest
    with pytest.raises(NotFound):
        here.manifest("0" * 64)
    with pytest.raises(DataRefused):
        check_manifest(type(manifest)(length=chunk_store.CHUNK_BYTES + 1, chunks=list(manifest.chunks)), 1 << 40)


def terms(shares: Mapping[str, float]) -> list[Term]:
    return [Term(Add("delta/w", 1.0, shares), 0, SIZE)]


def test_median_and_trimmed_mean_against_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eoforge.federated.robust.SLICE_ELEMENTS", 33)
    source = source_of(5)
    stacked = np.stack(list(source.updates.values())).astype(np.float64)
    shares = dict.fromkeys(source.updates, 2.0)
    (got,) = CentreCombiner(median)(terms(shares), source)
    np.testing.assert_allclose(got, 10 * np.median(stacked, axis=0))
    (got,) = CentreCombiner(lambda x: trimmed_mean(x, 0.2))(terms(shares), source)
    np.testing.assert_allclose(got, 10 * np.sort(stacked, axis=0)[1:-1].mean(axis=0))


def test_multi_krum_leaves_out_those_far_from_the_rest() -> None:
    source = source_of(6)
    for silo in source.updates:
        source.updates[silo] = source.updates[silo] * np.float32(0.01)
    source.updates["s3"] = source.updates["s3"] + 50  # type: ignore[index]
    kept = multi_krum(sorted(source.updates), {"delta/w": SIZE}, source, 0.2)
    assert kept == {"s0", "s1", "s2", "s4", "s5"}
    (got,) = SelectedSum(kept)(terms(dict.fromkeys(source.updates, 1.0)), source)
    np.testing.assert_allclose(got, sum(source.updates[s].astype(np.float64) for s in kept) * 6 / 5)


def test_slices_of_all_silos_stay_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eoforge.federated.robust.SLICE_ELEMENTS", 100)
    assert slices(0, 50, 10) == [(0, 10), (10, 20), (20, 30), (30, 40), (40, 50)]


def test_noise_is_a_function_of_the_secret_and_scales_with_the_share() -> None:
    source = Memory({"a": np.zeros(200_000), "b": np.zeros(200_000)})
    wide = [Term(Add("delta/w", 1.0, {"a": 2.0, "b": 2.0}), 0, 200_000)]
    narrow = [Term(Add("delta/w", 1.0, {"a": 2.0, "b": 2.0}), 70_000, 70_100)]
    noisy = NoisySum(b"k" * 32, 1, 1.5, 4.0, {"a": 0.0, "b": 0.0})
    (all_of_it,), (part,) = noisy(wide, source), noisy(narrow, source)
    assert np.array_equal(all_of_it[70_000:70_100], part)
    assert np.std(all_of_it) == pytest.approx(1.5 * 4.0 * 2.0, rel=0.01)
    (other,) = NoisySum(b"k" * 32, 2, 1.5, 4.0, {"a": 0.0, "b": 0.0})(narrow, source)
    assert not np.array_equal(other, part)


def test_clipping_never_raises_a_norm() -> None:
    assert clip_factors({"big": 10.0, "small": 0.5, "zero": 0.0}, 1.0) == {"big": 0.1, "small": 1.0, "zero": 1.0}


def test_epsilon_grows_with_rounds_and_matches_the_single_gaussian() -> None:
    assert epsilon_after(1, 1.0, 1e-5) < epsilon_after(10, 1.0, 1e-5) < epsilon_after(10, 0.5, 1e-5)
    # Analytic Gaussian mechanism: sigma 1, delta 1e-5 gives epsilon 4.377; Renyi accounting bounds it from above.
    assert 4.377 <= epsilon_after(1, 1.0, 1e-5) < 5.0


def test_plain_sum_ignores_silos_without_a_share() -> None:
    source = source_of(2)
    (got,) = weighted_sum(terms({"s1": 1.0}), source)
    assert np.array_equal(got, source.updates["s1"].astype(np.float64))
