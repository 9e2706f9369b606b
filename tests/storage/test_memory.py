"""Limit of malloc arenas in the C library of this process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

# malloc_info counts the arenas ("heaps") of the process; each allocating thread would get one of its own.
PROGRAM = """
import ctypes, sys, threading
from eoforge.storage.memory import bound_arenas
if sys.argv[1] == "bounded":
    bound_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
barrier = threading.Barrier(8)
def allocate():
    libc.malloc(4096)
    barrier.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
libc.fopen.restype, libc.fopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p]
libc.malloc_info.argtypes, libc.fclose.argtypes = [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]
out = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, out)
libc.fclose(out)
"""


def arenas(mode: str, info: Path) -> int:
    subprocess.run([sys.executable, "-c", PROGRAM, mode, str(info)], check=True)
    return len(re.findall(r"<heap nr=", info.read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc_info")
def test_two_arenas_however_many_threads(tmp_path: Path) -> None:
    assert arenas("free", tmp_path / "free.xml") > 2, "without the bound this many threads take more"
    assert arenas("bounded", tmp_path / "bounded.xml") <= 2


TRIM = """
import ctypes, psutil
from eoforge.storage.memory import return_free_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
blocks = [libc.malloc(4096) for _ in range(20_000)]
[ctypes.memset(block, 1, 4096) for block in blocks]
[libc.free(block) for block in blocks[:-1]]  # the last one keeps malloc from giving back the end by itself
before = psutil.Process().memory_info().rss
return_free_memory()
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc_trim")
def test_freed_memory_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", TRIM], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 20_000 * 4096 // 2
