"""Mutation testing of the formulas: one-line faults by cosmic-ray, and the faults that no test notices.

    python -m scripts.mutate privacy                 # one of SUITES, or all of them
    python -m scripts.mutate metrics --sample 40     # a random part: a mutant costs a run of the tests, some seconds
    python -m scripts.mutate losses --module eoforge/losses/robust.py --tests tests/losses/test_robust.py

Each mutant is made in a copy of the checkout and meets the tests of its suite (``scripts/mutants.py``). Survivors are
printed as diffs, also into ``--out``. A survivor is a missing test or an equivalent mutant (a message, a bound that
never binds).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Suite:
    """Modules to mutate, and the tests that must notice.

    Attributes:
        modules: Files or folders.
        tests: Files or folders.
    """

    modules: tuple[str, ...]
    tests: tuple[str, ...]


SUITES: dict[str, Suite] = {
    "losses": Suite(("eoforge/losses",), ("tests/losses", "tests/methods/test_ss_cm_rsir.py")),
    "metrics": Suite(("eoforge/metrics",), ("tests/metrics",)),
    "privacy": Suite(("eoforge/federated/privacy",), ("tests/federated/privacy", "tests/federated/test_reduce.py")),
    "priors": Suite(
        ("eoforge/codec/learned/priors.py",),
        ("tests/codec/test_priors.py", "tests/codec/test_entropy.py", "tests/codec/test_model.py"),
    ),
    "strategies": Suite(
        ("eoforge/federated/strategies",), ("tests/federated/strategies", "tests/methods/mm_fl/test_relay.py")
    ),
    "schedule": Suite(("eoforge/methods/schedule.py",), ("tests/methods/test_schedule.py",)),
}
TIMEOUT_S = 300.0
LIBRARIES = ("pytest", "numpy", "torch", "torchmetrics", "pyarrow", "pydantic", "safetensors", "google.protobuf")
"""What tests import for long, and what starts no threads."""
# `X | None` in annotations, which nothing evaluates, and decorators: not one of these is a formula.
SKIPPED_OPERATORS = ("core/ReplaceBinaryOperator_BitOr", "core/RemoveDecorator")


def run_suite(suite: Suite, sample: int | None, seed: int) -> tuple[int, list[str]]:
    """Number of tested mutants, and the survivors as diffs.

    Args:
        suite: Modules and tests.
        sample: Number of mutants that are tested; all if None.
        seed: Seed of the choice.
    """
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        checkout = Path(scratch, "checkout")
        _copy(checkout)
        session, config = Path(scratch, "session.sqlite"), Path(scratch, "config.toml")
        config.write_text(_config(suite))
        _cosmic_ray(checkout, "baseline", config)  # the tests must pass without a fault
        _cosmic_ray(checkout, "init", config, session)
        tested = _choose(session, sample, seed)
        _run(checkout, ROOT / "scripts" / "mutants.py", session, int(TIMEOUT_S), ",".join(LIBRARIES), *suite.tests)
        return tested, _survivors(session)


def _copy(checkout: Path) -> None:
    """Copy of the tracked files; a fault must never reach the checkout itself."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, checkout / name)


def _config(suite: Suite) -> str:
    tests = " ".join(suite.tests)
    command = f"{sys.executable} -m pytest -q -x -n 0 -p no:cacheprovider {tests}"
    return (
        f"[cosmic-ray]\nmodule-path = {list(suite.modules)!r}\ntimeout = {TIMEOUT_S}\nexcluded-modules = []\n"
        f'test-command = "{command}"\n[cosmic-ray.distributor]\nname = "local"\n'
    )


def _cosmic_ray(checkout: Path, *arguments: object) -> None:
    _run(checkout, "-m", "cosmic_ray.cli", *arguments)


def _run(checkout: Path, *arguments: object) -> None:
    command = [sys.executable, *map(str, arguments)]
    # No bytecode: that of a fault could be taken for that of the next one, which has the same size and second.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, check=False, cwd=checkout, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:4])} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


def _choose(session: Path, sample: int | None, seed: int) -> int:
    """Skips mutants of operators that mean nothing here, and those outside the sample; returns how many remain."""
    from cosmic_ray.work_db import WorkDB, use_db
    from cosmic_ray.work_item import WorkerOutcome, WorkResult

    with use_db(str(session), WorkDB.Mode.open) as database:
        kept: list[str] = []
        skipped: list[str] = []
        for item in list(database.pending_work_items):
            meaningless = any(m.operator_name.startswith(SKIPPED_OPERATORS) for m in item.mutations)
            (skipped if meaningless else kept).append(item.job_id)
        if sample is not None and sample < len(kept):
            chosen = set(random.Random(seed).sample(sorted(kept), sample))  # noqa: S311  # a choice of tests
            skipped += [job for job in kept if job not in chosen]
            kept = sorted(chosen)
        for job in skipped:
            database.set_result(job, WorkResult(worker_outcome=WorkerOutcome.SKIPPED))
    return len(kept)


def _survivors(session: Path) -> list[str]:
    from cosmic_ray.work_db import WorkDB, use_db
    from cosmic_ray.work_item import TestOutcome

    with use_db(str(session), WorkDB.Mode.open) as database:
        found = [result for _, result in database.results if result.test_outcome == TestOutcome.SURVIVED]
    return sorted(str(result.diff) for result in found)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Mutation testing of formulas.")
    parser.add_argument("suites", nargs="*", choices=[*SUITES, []], help=f"out of {', '.join(SUITES)}; all by default")
    parser.add_argument("--module", action="append", help="mutate only this file of the suite (repeat)")
    parser.add_argument("--tests", action="append", help="meet only this file or folder of tests (repeat)")
    parser.add_argument("--sample", type=int, help="number of mutants per suite")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--out", type=Path, help="file for the diffs of the survivors")
    args = parser.parse_args()
    report = []
    for name in args.suites or SUITES:
        suite = SUITES[name]
        suite = Suite(tuple(args.module or suite.modules), tuple(args.tests or suite.tests))
        tested, survivors = run_suite(suite, args.sample, args.seed)
        print(f"{name}: {tested} mutants, {len(survivors)} survived", flush=True)
        report += [f"# {name}\n{diff}\n" for diff in survivors]
    text = "\n".join(report)
    print(text)
    if args.out:
        args.out.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
