"""Exact search at a size whose tables the disk does not hold: codes of both sensors, rows and two filter columns.

The files are those of a segment of the local cache, without the other columns and the metadata of hits. The codes
repeat those of 10 million patches, each time with other bits flipped, so that no code comes twice.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.scale.archive import COUNTRIES, blocks, queries
from benchmarks.scale.codes import FITTED, Codes, block
from benchmarks.scale.engines import K, disk_mb, latency, memory_mb
from eoforge.data.search_filter import SearchFilter
from eoforge.index.cache.columns import FilterColumns
from eoforge.index.cache.segment import _checksum
from eoforge.index.search import HammingIndex

_DIFFERENT = 20
"""Blocks of the generator that are drawn."""
_ASKED = 60
FILES: dict[str, tuple[str, int]] = {
    "codes-s1": ("u1", 16),
    "codes-s2": ("u1", 16),
    "place": ("<u4", 1),
    "flags": ("u1", 1),
    "country": ("<u2", 1),
}
"""File -> type and values of a row."""


def largest(patches: int, work: Path) -> dict[str, Any]:
    """Time to check and open the files, searches of both sensors with and without a filter, and memory."""
    folder, start = work / f"largest-{patches}", time.perf_counter()
    if not folder.exists():
        _write(folder.with_suffix(".partial"), patches)
        folder.with_suffix(".partial").rename(folder)
    made, before = round(time.perf_counter() - start, 1), memory_mb()
    start = time.perf_counter()
    with ThreadPoolExecutor() as threads:
        list(threads.map(_checksum, [folder / f"{name}.bin" for name in FILES]))
    arrays = {name: _mapped(folder / f"{name}.bin", *shape) for name, shape in FILES.items()}
    columns = FilterColumns(arrays, {"country": COUNTRIES, "split": ()}, ())
    opened = round(time.perf_counter() - start, 1)
    wanted, searches = SearchFilter(countries=COUNTRIES[2:3]), {}
    for sensor, asked in zip(("s1", "s2"), reversed(queries()), strict=True):
        index, asked = HammingIndex(arrays[f"codes-{sensor}"]), asked[:_ASKED]
        distances = index.search(asked, K)[0]
        searches[sensor] = latency(lambda q, i=index: i.search(q[None], K)[0][0], distances, asked)
    few = asked[: _ASKED // 3]
    distances = index.search(few, K, columns.allowed(wanted, None))[0]
    searches["s2, one country of eight"] = latency(
        lambda q: index.search(q[None], K, columns.allowed(wanted, None))[0][0], distances, few
    )
    return {
        "make_s": made,
        "open_s": opened,
        "searches": searches,
        "memory_before": before,
        "memory": memory_mb(),
        "disk_mb": disk_mb(folder),
    }


def _write(folder: Path, patches: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    drawn = list[tuple[Codes, Codes]]()
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}.bin").open("wb")) for name in FILES}
        for number, rows in blocks(patches):
            if number < _DIFFERENT:
                drawn.append(block(FITTED, number, rows))
            flipped = np.random.default_rng(number // _DIFFERENT).integers(0, 256, 16, dtype=np.uint8)
            first = number * len(drawn[0][0])
            parts = dict(zip(("codes-s1", "codes-s2"), drawn[number % _DIFFERENT], strict=True))
            columns = {name: codes[:rows] ^ flipped for name, codes in parts.items()} | {
                "place": np.arange(first, first + rows, dtype=np.uint32),
                "flags": np.full(rows, 4, np.uint8),
                "country": (np.arange(first, first + rows) * 7919 % len(COUNTRIES) + 1).astype(np.uint16),
            }
            for name, values in columns.items():
                files[name].write(values.data)


def _mapped(path: Path, dtype: str, width: int) -> npt.NDArray[Any]:
    found = np.asarray(np.memmap(path, dtype, "r"))
    return found.reshape(-1, width) if width > 1 else found
