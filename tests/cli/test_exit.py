"""End of a command: exit functions run, and the interpreter is not torn down beside threads of native libraries."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, sys, threading, time
from eoforge.cli import entry

class Torn:
    def __del__(self):
        sys.__stderr__.write("torn down\\n")

kept = Torn()
later = threading.Thread(target=lambda: (time.sleep(0.5), print("thread ended")))

def start():
    later.start()
    atexit.register(print, "exit function")

import eoforge.cli.root as root
main = root.main
root.main = lambda: (start(), main())[1]
sys.argv[1:] = {arguments}
{end}
"""


@pytest.mark.parametrize("end", ["entry()", "sys.exit(entry())"], ids=["module", "script"])
@pytest.mark.parametrize(("arguments", "code"), [(["ingest", "/absent", "/t"], 1), (["--help"], 0), (["nothing"], 2)])
def test_a_command_ends_without_tearing_down_the_interpreter(end: str, arguments: list[str], code: int) -> None:
    """A native thread that asks for the interpreter during its end would abort the process (SIGABRT)."""
    program = PROGRAM.format(arguments=arguments, end=end)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "thread ended\n" in done.stdout
    assert done.stdout.endswith("exit function\n")
    assert "torn down" not in done.stderr
