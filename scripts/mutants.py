"""Testing of mutants in forks of one process that has the libraries loaded: a start of Python costs several seconds.

Run by ``scripts/mutate.py`` in a copy of the checkout: ``python scripts/mutants.py SESSION SECONDS LIBRARIES TEST...``.
"""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any


def test_all(session: str, seconds: int, libraries: list[str], tests: list[str]) -> None:
    """Result of every pending mutant of a session of cosmic-ray, stored there; the working directory is the checkout.

    Args:
        session: Database of cosmic-ray.
        seconds: Longest run of the tests; a mutant that takes longer is killed.
        libraries: Modules to load before the first fork; none of the checkout, which the mutants change.
        tests: Files or folders.
    """
    from cosmic_ray.work_db import WorkDB, use_db
    from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkResult

    for name in libraries:
        with suppress(ImportError):
            importlib.import_module(name)
    with use_db(session, WorkDB.Mode.open) as database:
        for item in list(database.pending_work_items):
            passed, diff = _tested(item.mutations, seconds, tests)
            outcome = TestOutcome.SURVIVED if passed else TestOutcome.KILLED
            result = WorkResult(worker_outcome=WorkerOutcome.NORMAL, test_outcome=outcome, diff=diff)
            database.set_result(item.job_id, result)


def _tested(mutations: Any, seconds: int, tests: list[str]) -> tuple[bool, str]:
    """Whether the tests pass with a fault, and the fault."""
    from cosmic_ray.mutating import use_mutation
    from cosmic_ray.plugins import get_operator

    lines: list[str] = []
    with ExitStack() as stack:
        for one in mutations:
            operator = get_operator(one.operator_name)(**one.operator_args)
            before, after = stack.enter_context(use_mutation(Path(one.module_path), operator, one.occurrence))
            name = str(one.module_path)
            lines += difflib.unified_diff(before.splitlines(), (after or before).splitlines(), name, name, lineterm="")
        passed = _passes(seconds, tests)
    return passed, "\n".join(lines)


def _passes(seconds: int, tests: list[str]) -> bool:
    """Whether the tests pass, in a fork."""
    child = os.fork()
    if not child:
        signal.alarm(seconds)  # unhandled, it ends the process
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        import pytest

        os._exit(int(pytest.main(["-q", "-x", "-n", "0", "-p", "no:cacheprovider", *tests])))
    return os.waitpid(child, 0)[1] == 0


if __name__ == "__main__":
    sys.path[0] = os.getcwd()
    sys.dont_write_bytecode = True  # a fault of the same size in the same second would meet the bytecode of another
    test_all(sys.argv[1], int(sys.argv[2]), sys.argv[3].split(","), sys.argv[4:])
