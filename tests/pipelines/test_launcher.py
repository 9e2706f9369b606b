"""Training on this machine: the right command, its result, its errors, its end."""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path

import pytest

from eoforge.errors import DataRefused, EoforgeError, NotFound, UsageError
from eoforge.storage.addresses import TableRef
from pipelines.launcher import LocalLauncher
from pipelines.training import TrainingJob


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    return TrainingJob(
        "ss_cm_rsir", TableRef(str(tmp_path / "patches.lance"), 3), str(tmp_path / "runs"), "tiny", ("epochs=1",)
    )


class Script(LocalLauncher):
    """Runs a few lines of Python instead of the command line."""

    def command(self, job: TrainingJob) -> list[str]:
        return [sys.executable, "-u", "-c", self.code]

    code = ""


def script(code: str) -> Script:
    return type("One", (Script,), {"code": code})()


def test_command_is_the_command_line_tool(job: TrainingJob) -> None:
    command = LocalLauncher().command(job)
    assert command[1:5] == ["-m", "eoforge.cli", "train", "ss_cm_rsir"]
    assert command[command.index("--data") + 1] == f"{job.table.uri}@3"
    assert command[command.index("--out") + 1] == job.out
    assert command[-2:] == ["--json", "epochs=1"]


def test_several_processes_run_under_torchrun(job: TrainingJob) -> None:
    command = LocalLauncher(processes=2).command(job)
    assert command[1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--module"]
    assert command[6:9] == ["eoforge.cli", "train", "ss_cm_rsir"]


def test_real_command_reports_its_own_error(job: TrainingJob) -> None:
    with pytest.raises(NotFound, match=r"training ss-cm-rsir-\w+ failed: no Lance table at .*patches.lance@3"):
        LocalLauncher().train(job, timeout_s=600)


def test_reported_error_keeps_its_kind(job: TrainingJob) -> None:
    line = '{"error": {"reason": "DATA_REFUSED", "message": "no validation split", "exit_code": 3}}'
    with pytest.raises(DataRefused, match="no validation split"):
        script(f"print('{line}'); raise SystemExit(3)").train(job, timeout_s=300)


def test_crash_shows_the_last_lines(job: TrainingJob) -> None:
    with pytest.raises(EoforgeError, match=r"(?s)exit code 1.*ZeroDivisionError"):
        script("print('epoch 1'); 1 / 0").train(job, timeout_s=300)


def test_success_without_a_bundle_is_an_error(job: TrainingJob) -> None:
    with pytest.raises(EoforgeError, match="without printing its bundle"):
        script("print('{\"epochs\": 1}')").train(job, timeout_s=300)


def test_timeout_ends_the_whole_process_group(job: TrainingJob, tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    os.mkfifo(beat)
    # The worker is a fork, so that it is there well before the time is up; as long as it lives, it holds the pipe open.
    code = (
        "import os, time\nif os.fork() == 0:\n"
        f"    pipe = os.open({str(beat)!r}, os.O_WRONLY); os.write(pipe, b'alive')\ntime.sleep(3600)"
    )
    reader = os.open(beat, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(EoforgeError, match="after 3 s"):
            script(code).train(job, timeout_s=3)
        assert os.read(reader, 5) == b"alive"
        assert select.select([reader], [], [], 60)[0], "a worker outlived the launcher"
        assert os.read(reader, 5) == b"", "the end of the pipe"
    finally:
        os.close(reader)


def test_plan_pins_a_version_and_refuses_nonsense(tmp_path: Path) -> None:
    arguments = {"method": "m", "table": str(tmp_path / "t.lance"), "runs": "r", "preset": "tiny", "overrides": ()}
    with pytest.raises(UsageError, match="version must be a number"):
        TrainingJob.plan(version="newest", **arguments)
    with pytest.raises(NotFound):
        TrainingJob.plan(version="", **arguments)
