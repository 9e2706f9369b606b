"""Targets of regression: shares of classes, columns, CSV files; every odd row is named or counted."""

from __future__ import annotations

from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from eoforge.data.labels import IGNORE_INDEX, INDEX, clc_to_classes
from eoforge.data.records import record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.target_file import file_digest
from eoforge.data.targets import SHARES, Target, patches_of, read_file, read_target, with_defaults
from eoforge.errors import DataRefused, NotFound, UsageError
from eoforge.storage.addresses import TableRef


@pytest.fixture(scope="module")
def pairs():
    return list(synthetic_pairs(12, seed=5))


@pytest.fixture(scope="module")
def table(pairs, tmp_path_factory) -> TableRef:
    uri = str(tmp_path_factory.mktemp("targets") / "patches.lance")
    rows = pa.Table.from_batches([record_batch(pairs)])
    height = pa.array([None if i == 3 else float(i) for i in range(len(pairs))], pa.float64())
    lance.write_dataset(rows.append_column("height", height), uri)
    return TableRef(uri, 1)


def names(pairs) -> list[str]:
    return [pair.meta.patch_id for pair in pairs]


def csv(folder: Path, *lines: str) -> str:
    path = folder / "field.csv"
    path.write_text("\n".join(("patch_id,biomass", *lines)) + "\n")
    return str(path)


@pytest.mark.parametrize("target", ["forest_share", "water_share", "share:Mixed forest"])
def test_a_share_is_the_part_of_the_pixels_with_a_class(table, pairs, target: str) -> None:
    found = read_target(table, with_defaults(Target(target)), names(pairs))
    labels = SHARES.get(target, (target.removeprefix("share:"),))
    for pair in pairs:
        classes = clc_to_classes(pair.reference_map).ravel().tolist()
        known = [one for one in classes if one != IGNORE_INDEX]
        expected = sum(one in [INDEX[label] for label in labels] for one in known) / len(known)
        assert found.values[pair.meta.patch_id] == pytest.approx(expected)
    assert found.missing == 0


def test_shares_are_between_0_and_1() -> None:
    target = with_defaults(Target("forest_share"))
    assert (target.low, target.high, target.unit) == (0, 1, "share of the area")
    assert with_defaults(Target("height")) == Target("height")


def test_a_patch_without_a_map_or_number_is_missing(table, pairs) -> None:
    found = read_target(table, Target("height"), names(pairs)[2:5])
    assert found.values == {names(pairs)[2]: 2.0, names(pairs)[4]: 4.0}
    assert found.missing == 1


def test_only_the_named_patches_are_read(table, pairs) -> None:
    assert list(read_target(table, Target("height"), names(pairs)[5:7]).values.values()) == [5.0, 6.0]


def test_unknown_targets_are_refused_with_what_there_is(table, pairs) -> None:
    with pytest.raises(UsageError, match=r"forest_share.*numeric column.*height.*got 'country'.*labels_file"):
        read_target(table, Target("country"), names(pairs))
    with pytest.raises(UsageError, match="did you mean Mixed forest"):
        read_target(table, Target("share:Mixed forests"), names(pairs))
    with pytest.raises(UsageError, match="low < high; got 2 and 1"):
        Target("height", low=2, high=1)


@pytest.mark.parametrize("policy", ["refuse", "clip"])
def test_values_out_of_range_are_refused_or_clipped_and_counted(table, pairs, policy) -> None:
    target = Target("height", low=1, high=9.5, policy=policy)
    if policy == "refuse":
        with pytest.raises(DataRefused, match=rf"3 values of height .* outside 1 to 9.5: {names(pairs)[0]} \(0\), .*"):
            read_target(table, target, names(pairs))
        return
    found = read_target(table, target, names(pairs))
    assert found.clipped == 3
    assert [found.values[names(pairs)[i]] for i in (0, 1, 10, 11)] == [1, 1, 9.5, 9.5]


def test_a_file_is_joined_by_id_and_its_odd_rows_are_counted(table, pairs, tmp_path, capsys) -> None:
    train = patches_of(table, "train")
    other = next(name for name in names(pairs) if name not in train)
    file = csv(
        tmp_path, f"{train[0]},10", f"{train[1]},", f"{train[0]},14", f"{train[2]},NaN", f"{other},3", f"{train[3]}, 5 "
    )
    found = read_file(table, Target("biomass", "t/ha"), file, "train")
    assert found.values == {train[0]: 12.0, train[3]: 5.0}
    counts = vars(found.file)
    assert counts == {"rows": 6, "duplicates": 1, "missing": 2, "unknown": 0, "other_splits": 1}
    said = capsys.readouterr()
    assert "1 rows of" in said.out + said.err
    assert "2 patches of" in said.out + said.err


def test_ids_that_are_not_in_the_table_are_named(table, tmp_path) -> None:
    train = patches_of(table, "train")
    file = csv(tmp_path, f"{train[0]},10", *(f"nowhere_{i},1" for i in range(7)))
    with pytest.raises(DataRefused, match=r"7 of 8 patches .* are not in .*: nowhere_0, .*nowhere_4 and 2 more"):
        read_file(table, Target("biomass"), file, "train")
    found = read_file(table, Target("biomass"), file, "train", skip_unknown=True)
    assert found.values == {train[0]: 10.0}
    assert found.file.unknown == 7


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["a,tall"], r"biomass in line 2 of .* must be a finite number or empty; got 'tall'"),
        (["a,1", "b,inf"], r"line 3 of .* got 'inf'"),
        ([",1"], "line 2 of .* has no patch_id"),
        (["a," + "1" * 200_000], "line 2 of .* is no CSV: field larger"),
    ],
)
def test_a_malformed_file_is_refused_by_its_line(table, tmp_path, lines, says) -> None:
    with pytest.raises(DataRefused, match=says):
        read_file(table, Target("biomass"), csv(tmp_path, *lines), "train")


def test_a_file_that_is_none_of_ours_is_refused(table, tmp_path) -> None:
    with pytest.raises(DataRefused, match="columns patch_id and height; got patch_id, biomass"):
        read_file(table, Target("height"), csv(tmp_path, "a,1"), "train")
    with pytest.raises(NotFound):
        read_file(table, Target("biomass"), str(tmp_path / "absent.csv"), "train")
    (tmp_path / "latin.csv").write_bytes("patch_id,biomass\nä,1\n".encode("latin-1"))
    with pytest.raises(DataRefused, match="UTF-8"):
        read_file(table, Target("biomass"), str(tmp_path / "latin.csv"), "train")


def test_a_file_that_changed_is_recognised(table, tmp_path) -> None:
    train = patches_of(table, "train")
    file = csv(tmp_path, f"{train[0]},10")
    digest = file_digest(file)
    assert read_file(table, Target("biomass"), file, "train", digest=digest).values
    csv(tmp_path, f"{train[0]},11")
    with pytest.raises(DataRefused, match="another file than the one that was trained on"):
        read_file(table, Target("biomass"), file, "train", digest=digest)


def test_the_range_holds_for_files_too(table, tmp_path) -> None:
    train = patches_of(table, "train")
    file = csv(tmp_path, f"{train[0]},-1", f"{train[1]},2")
    with pytest.raises(DataRefused, match=r"1 values of biomass .* outside 0 to None"):
        read_file(table, Target("biomass", low=0), file, "train")
    found = read_file(table, Target("biomass", low=0, policy="clip"), file, "train")
    assert np.array_equal(list(found.values.values()), [0, 2])
