"""Loader: every row once, batches independent of the number of workers, filters equal to a reference."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eoforge.data.labels import CLASSES, IGNORE_INDEX, clc_to_classes, mask_of
from eoforge.data.loading.loader import SEASONS, PatchBatch, PatchFilter, PatchLoader
from eoforge.data.records import PatchPair, record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.indexes import ensure_indexes
from eoforge.data.tables.schema import PATCHES
from eoforge.errors import NotFound, UsageError
from eoforge.storage.addresses import storage_options

COUNT = 70


def write_table(uri: str, pairs: list[PatchPair], rows_per_file: int = 16) -> None:
    table = pa.Table.from_batches([record_batch(pairs)])
    lance.write_dataset(
        table, uri, schema=PATCHES, max_rows_per_file=rows_per_file, storage_options=storage_options(uri)
    )


@pytest.fixture(scope="module")
def pairs() -> list[PatchPair]:
    made = list(synthetic_pairs(COUNT, seed=11))
    # Every third map is missing, as in archives without reference maps.
    return [
        PatchPair(p.meta, p.s2_10m, p.s2_20m, p.s2_60m, p.s1, None if i % 3 == 1 else p.reference_map)
        for i, p in enumerate(made)
    ]


@pytest.fixture(scope="module")
def table(pairs: list[PatchPair], tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("loader") / "patches.lance")
    write_table(uri, pairs)
    ensure_indexes(uri)
    return uri


def ids(loader: PatchLoader) -> list[list[str]]:
    return [batch.patch_id for batch in loader]


def flat(batches: list[list[str]]) -> list[str]:
    return [name for batch in batches for name in batch]


def test_sequential_order_and_exact_pixels(table: str, pairs: list[PatchPair]) -> None:
    loader = PatchLoader(table, batch_size=16, reference_map=True)
    batches = list(loader)
    assert len(loader) == len(batches) == 5
    assert [len(b) for b in batches] == [16, 16, 16, 16, 6]
    assert flat([b.patch_id for b in batches]) == [p.meta.patch_id for p in pairs]
    i = 0
    for batch in batches:
        for k in range(len(batch)):
            pair, i = pairs[i], i + 1
            for name, dtype in (("s2_10m", torch.uint16), ("s2_20m", torch.uint16), ("s2_60m", torch.uint16)):
                assert getattr(batch, name).dtype == dtype
                assert np.array_equal(getattr(batch, name)[k].numpy(), getattr(pair, name))
            assert batch.s1 is not None
            assert np.array_equal(batch.s1[k].numpy(), pair.s1)
            assert int(batch.label_mask[k]) == mask_of(pair.meta.labels)
            assert batch.reference_map is not None
            expected = IGNORE_INDEX if pair.reference_map is None else clc_to_classes(pair.reference_map)
            assert (batch.reference_map[k].numpy() == expected).all()


def test_only_the_asked_columns_are_read(table: str) -> None:
    radar = next(iter(PatchLoader(table, batch_size=4, modalities=("s1",))))
    assert radar.s1 is not None
    assert radar.s2_10m is radar.s2_20m is radar.s2_60m is radar.reference_map is None
    optical = next(iter(PatchLoader(table, batch_size=4, modalities=("s2",))))
    assert optical.s1 is None
    assert optical.s2_60m is not None


def test_shuffle_is_a_permutation_of_seed_and_epoch(table: str, pairs: list[PatchPair]) -> None:
    loader = PatchLoader(table, batch_size=8, shuffle=True, seed=5)
    first, again = ids(loader), ids(loader)
    assert first == again
    assert sorted(flat(first)) == sorted(p.meta.patch_id for p in pairs)
    loader.set_epoch(1)
    second = ids(loader)
    assert [set(b) for b in second] != [set(b) for b in first]
    assert sorted(flat(second)) == sorted(flat(first))
    assert ids(PatchLoader(table, batch_size=8, shuffle=True, seed=6)) != first
    assert ids(PatchLoader(table, batch_size=8, shuffle=True, seed=5)) == first


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_change_nothing(table: str, workers: int) -> None:
    def digest(count: int) -> list[tuple[list[str], int]]:
        loader = PatchLoader(table, batch_size=8, shuffle=True, seed=2, workers=count)
        return [(b.patch_id, int(b.s2_10m.to(torch.int64).sum())) for b in loader if b.s2_10m is not None]

    assert digest(workers) == digest(0)


@settings(max_examples=12, deadline=None)
@given(world=st.integers(1, 7), batch_size=st.integers(1, 33), shuffle=st.booleans())
def test_ranks_share_each_row_exactly_once(table: str, world: int, batch_size: int, shuffle: bool) -> None:
    def rank_ids(rank: int, drop_last: bool) -> list[list[str]]:
        loader = PatchLoader(
            table, batch_size=batch_size, modalities=("s2",), shuffle=shuffle, seed=3, rank=rank, world_size=world,
            drop_last=drop_last,
        )  # fmt: skip
        got = ids(loader)
        assert len(got) == len(loader)
        return got

    whole = [rank_ids(rank, False) for rank in range(world)]
    names = [name for batches in whole for name in flat(batches)]
    assert len(names) == len(set(names)) == COUNT
    full = [rank_ids(rank, True) for rank in range(world)]
    assert {len(batches) for batches in full} == {COUNT // (world * batch_size)}
    assert all(len(batch) == batch_size for batches in full for batch in batches)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 1, 4, 9])
def test_resume_in_mid_epoch_equals_no_interruption(table: str, stop: int, workers: int) -> None:
    def make() -> PatchLoader:
        return PatchLoader(table, batch_size=8, shuffle=True, seed=9, workers=workers)

    def epochs(loader: PatchLoader, first: int) -> list[list[str]]:
        out: list[list[str]] = []
        for epoch in range(first, 4):
            loader.set_epoch(epoch)
            out += ids(loader)
        return out

    expected = epochs(make(), 2)
    interrupted = make()
    interrupted.set_epoch(2)
    seen, reader = [], iter(interrupted)
    for _ in range(stop):
        seen.append(next(reader).patch_id)
    state = json.loads(json.dumps(interrupted.state_dict()))
    resumed = make()
    resumed.load_state_dict(state)
    assert seen + epochs(resumed, 2) == expected


def test_a_new_iteration_starts_over_unless_a_state_was_loaded(table: str) -> None:
    loader = PatchLoader(table, batch_size=8)
    first = next(iter(loader)).patch_id
    assert next(iter(loader)).patch_id == first


def test_state_of_another_loader_is_refused(table: str) -> None:
    state = PatchLoader(table, batch_size=8, seed=1, shuffle=True).state_dict()
    for changed in ({"batch_size": 4}, {"seed": 2}, {"filter": PatchFilter(splits=("train",))}):
        arguments: dict[str, Any] = {"batch_size": 8, "seed": 1, "shuffle": True, **changed}
        with pytest.raises(UsageError, match="cannot resume"):
            PatchLoader(table, **arguments).load_state_dict(state)


def _month(pair: PatchPair) -> int:
    return datetime.strptime(pair.meta.patch_id[11:26], "%Y%m%dT%H%M%S").replace(tzinfo=UTC).month


FILTERS: list[tuple[PatchFilter, Callable[[PatchPair], bool]]] = [
    (PatchFilter(splits=("train", "test")), lambda p: p.meta.split in ("train", "test")),
    (PatchFilter(countries=("Finland", "Serbia")), lambda p: p.meta.country in ("Finland", "Serbia")),
    (PatchFilter(seasons=("winter", "spring")), lambda p: _month(p) in (12, 1, 2, 3, 4, 5)),
    (PatchFilter(labels_any=("Pastures", "Marine waters")),
     lambda p: bool({"Pastures", "Marine waters"} & set(p.meta.labels))),
    (PatchFilter(labels_all=("Arable land", "Broad-leaved forest")),
     lambda p: {"Arable land", "Broad-leaved forest"} <= set(p.meta.labels)),
    (PatchFilter(labels_any=(CLASSES[6],)), lambda p: CLASSES[6] in p.meta.labels),
    (PatchFilter(exclude_snow=True), lambda p: not p.meta.contains_seasonal_snow),
    (PatchFilter(exclude_cloud=True), lambda p: not p.meta.contains_cloud_or_shadow),
    (PatchFilter(splits=("train",), seasons=("summer",), labels_any=("Coniferous forest",), exclude_snow=True,
                 exclude_cloud=True),
     lambda p: p.meta.split == "train" and _month(p) in SEASONS["summer"] and "Coniferous forest" in p.meta.labels
     and not p.meta.contains_seasonal_snow and not p.meta.contains_cloud_or_shadow),
]  # fmt: skip


@pytest.mark.parametrize(("patches", "passes"), FILTERS, ids=[str(i) for i in range(len(FILTERS))])
def test_filters_equal_a_plain_reference(
    table: str, pairs: list[PatchPair], patches: PatchFilter, passes: Callable[[PatchPair], bool]
) -> None:
    expected = [p.meta.patch_id for p in pairs if passes(p)]
    assert 0 < len(expected) < COUNT, "the reference must select some and drop some"
    loader = PatchLoader(table, batch_size=8, filter=patches)
    assert flat(ids(loader)) == expected
    assert loader.rows == len(expected)


def test_filter_after_deletion_and_compaction_reads_the_right_rows(pairs: list[PatchPair], tmp_path: Path) -> None:
    uri = str(tmp_path / "t.lance")
    write_table(uri, pairs, rows_per_file=7)
    dataset = lance.dataset(uri)
    gone = {p.meta.patch_id for p in pairs[3:20:2]}
    dataset.delete("patch_id IN (" + ", ".join(f"'{g}'" for g in gone) + ")")
    expected = [p.meta.patch_id for p in pairs if p.meta.patch_id not in gone and p.meta.split == "train"]
    wanted = PatchFilter(splits=("train",))
    assert flat(ids(PatchLoader(uri, batch_size=9, filter=wanted))) == expected
    lance.dataset(uri).optimize.compact_files()
    assert sorted(flat(ids(PatchLoader(uri, batch_size=9, filter=wanted)))) == sorted(expected)


def test_a_pinned_version_ignores_later_rows(pairs: list[PatchPair], tmp_path: Path) -> None:
    uri = str(tmp_path / "t.lance")
    write_table(uri, pairs[:10])
    loader = PatchLoader(uri, batch_size=4)
    lance.write_dataset(pa.Table.from_batches([record_batch(pairs[10:20])]), uri, mode="append")
    assert len(flat(ids(loader))) == 10
    assert PatchLoader(uri, batch_size=4).rows == 20
    assert PatchLoader(f"{uri}@{loader.version}", batch_size=4).rows == 10


def test_quotes_in_names_cannot_leave_the_literal(table: str) -> None:
    with pytest.raises(NotFound, match="no patch"):
        PatchLoader(table, batch_size=4, filter=PatchFilter(countries=("x' OR '1'='1",)))


@pytest.mark.parametrize(
    "wrong", [{"splits": ("val",)}, {"seasons": ("monsoon",)}, {"labels_any": ("Pasture",)}, {"splits": "train"}]
)
def test_unknown_names_in_a_filter_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        PatchFilter(**wrong)


def test_bad_numbers_and_tables_are_refused(table: str, tmp_path: Path) -> None:
    for wrong in ({"batch_size": 0}, {"rank": 2, "world_size": 2}, {"workers": -1}, {"modalities": ()}):
        arguments: dict[str, Any] = {"batch_size": 4, **wrong}
        with pytest.raises(UsageError):
            PatchLoader(table, **arguments)
    with pytest.raises(UsageError, match="modality"):
        PatchLoader(table, batch_size=4, modalities=("s3",))
    with pytest.raises(NotFound):
        PatchLoader(str(tmp_path / "none.lance"), batch_size=4)


@pytest.mark.s3
def test_reads_from_an_object_store(s3: str, pairs: list[PatchPair]) -> None:
    uri = f"{s3}/patches.lance"
    write_table(uri, pairs[:12])
    batches = list(PatchLoader(uri, batch_size=5, shuffle=True, workers=2))
    assert sorted(n for b in batches for n in b.patch_id) == sorted(p.meta.patch_id for p in pairs[:12])


def test_batches_own_their_pixels(table: str, pairs: list[PatchPair]) -> None:
    """Rasters are Arrow memory without a copy: writing to them changes neither a later batch nor one read before."""
    loader = PatchLoader(table, batch_size=20)
    first = next(iter(loader))
    kept = next(iter(loader))
    for pixels in (first.s2_10m, first.s2_20m, first.s2_60m, first.s1):
        assert pixels is not None
        pixels.fill_(7)
    for batch in (kept, next(iter(loader))):
        for k, pair in enumerate(pairs[:20]):
            for name in ("s2_10m", "s2_20m", "s2_60m", "s1"):
                assert np.array_equal(getattr(batch, name)[k].numpy(), getattr(pair, name))


def test_a_batch_moves_as_a_whole(table: str) -> None:
    batch = next(iter(PatchLoader(table, batch_size=3, reference_map=True)))
    moved = batch.to("meta")
    assert isinstance(moved, PatchBatch)
    assert moved.patch_id == batch.patch_id
    assert all(t is not None and t.is_meta for t in (moved.s2_10m, moved.s1, moved.label_mask, moved.reference_map))
    assert len(moved) == 3


@pytest.mark.parametrize("world_size", [1, 3])
def test_runs_stay_together_and_every_row_comes_once(table: str, world_size: int) -> None:
    order = {name: i for i, name in enumerate(flat(ids(PatchLoader(table, batch_size=COUNT))))}
    options: dict[str, Any] = {"batch_size": 10, "shuffle": True, "run_length": 5, "world_size": world_size}
    loaders = [PatchLoader(table, rank=rank, **options) for rank in range(world_size)]
    batches = [batch for loader in loaders for batch in ids(loader)]
    assert sorted(flat(batches)) == sorted(order)
    assert [len(loader) for loader in loaders] == [sum(1 for _ in loader) for loader in loaders]
    breaks = sum(int(np.sum(np.diff(sorted(order[n] for n in batch)) != 1)) + 1 for batch in batches)
    assert breaks <= 2 * COUNT / 5 + 2 * world_size, "pieces of runs; single rows would give nearly as many as rows"
    again = PatchLoader(table, rank=0, **options)
    assert ids(again) == batches[: len(again)]
    again.set_epoch(1)
    assert ids(again) != batches[: len(again)]


def test_resuming_in_runs_gives_what_would_have_come(table: str) -> None:
    options: dict[str, Any] = {"batch_size": 8, "shuffle": True, "run_length": 4, "seed": 3}
    whole, part, rest = (PatchLoader(table, **options) for _ in range(3))
    expected = ids(whole)
    iterator = iter(part)
    for _ in range(3):
        next(iterator)
    rest.load_state_dict(part.state_dict())
    assert ids(rest) == expected[3:]
    with pytest.raises(UsageError, match="run_length"):
        PatchLoader(table, **(options | {"run_length": 2})).load_state_dict(part.state_dict())
    with pytest.raises(UsageError, match="run_length"):
        PatchLoader(table, batch_size=1, run_length=0)
