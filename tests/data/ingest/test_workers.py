"""Pool of processes: order, refusals, and both kinds of termination."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from eoforge.data.ingest.workers import in_processes
from eoforge.errors import EoforgeError, UsageError


def square(n: int) -> int:
    return n * n


def sign_of_interrupt() -> str:
    return str(signal.getsignal(signal.SIGINT))


def warn(n: int) -> int:
    structlog.get_logger("worker").warning("retrying", attempt=n)
    return n


def be_killed(mark: str) -> None:
    Path(mark).touch()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers: int) -> None:
    assert list(in_processes(square, [(n,) for n in range(5)], workers)) == [0, 1, 4, 9, 16]


def test_no_workers() -> None:
    with pytest.raises(UsageError, match="workers"):
        list(in_processes(square, [(1,)], 0))


def test_ctrl_c_ends_workers_without_a_traceback_each() -> None:
    assert set(in_processes(sign_of_interrupt, [(), ()], 2)) == {str(signal.SIG_DFL)}


def test_workers_log_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    """Standard output is for results, also of the processes that a command starts."""
    assert list(in_processes(warn, [(0,), (1,)], 2)) == [0, 1]
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.count("retrying") == 2


def test_a_worker_that_was_killed_is_explained(tmp_path: Path) -> None:
    with pytest.raises(EoforgeError, match="fewer workers"):
        list(in_processes(be_killed, [(str(tmp_path / "a"),), (str(tmp_path / "b"),)], 2))
    assert list(tmp_path.iterdir())


def test_a_worker_that_opens_no_table_starts_without_lance() -> None:
    """An import of pandas takes two seconds, most of the time of a process that writes a few hundred patches."""
    check = "import sys, eoforge.data.ingest.run, eoforge.data.synthetic.archive; sys.exit('lance' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=120)
