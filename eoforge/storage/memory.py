"""Settings of glibc's malloc that bound resident memory while the threads of Lance allocate row batches."""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8  # <malloc.h>
_ARENAS = 2
_M_MMAP_THRESHOLD = -3


def bound_arenas() -> None:
    """Limit of two malloc arenas instead of eight per core; call it before Lance starts its threads.

    Each arena keeps the largest amount that it ever served. Ingesting 20,000 patches peaked at 834 MiB with the
    default and at 591 MiB with two arenas, in the same time (``benchmarks.data.ingest_memory``). Without glibc the call
    has no effect.
    """
    _call("mallopt", _M_ARENA_MAX, _ARENAS)


def return_large_blocks(size: int = 1 << 20) -> None:
    """Lets glibc's malloc give blocks from ``size`` bytes on back to the system as soon as they are free.

    By default it does so at first, and keeps such blocks once it has seen some: what services receive comes in such.
    """
    _call("mallopt", _M_MMAP_THRESHOLD, size)


def return_free_memory() -> None:
    """Return of free memory from malloc to the system; call it between phases, after much was freed.

    The encoders of Lance leave 80 to 120 MiB, which would add to the memory of the next phase. Without glibc the call
    has no effect.
    """
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*arguments)
