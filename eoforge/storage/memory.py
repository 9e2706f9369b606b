"""Keeps resident memory near what is in use while Lance's many threads allocate and free row batches."""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8  # <malloc.h>
_ARENAS = 2
_M_MMAP_THRESHOLD = -3


def bound_arenas() -> None:
    """Lets glibc's malloc keep two arenas instead of eight a core; call it before Lance starts its threads.

    Each arena holds on to the largest amount it ever served. Ingesting 20,000 patches peaked at 834 MiB with the
    default and at 591 MiB with two arenas, in the same time (``benchmarks.data.ingest_memory``). Elsewhere than with
    glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)


def return_large_blocks(size: int = 1 << 20) -> None:
    """Lets glibc's malloc give blocks from ``size`` bytes on back to the system as soon as they are free.

    By default it does so at first, and keeps such blocks once it has seen some: what services receive comes in such.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, size)


def return_free_memory() -> None:
    """Gives what malloc keeps for later back to the system; call it between phases, when much has just been freed.

    Lance's encoders leave 80 to 120 MiB of it behind, which the next phase would come on top of. Elsewhere than with
    glibc nothing happens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
