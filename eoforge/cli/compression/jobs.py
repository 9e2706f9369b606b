"""Jobs over folders: foreign files are left out, a file that fails is named, and the others go on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from eoforge.cli.output import emit, say
from eoforge.errors import DataRefused, EoforgeError, UsageError

_FOREIGN = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"}
"""Folders that operating systems and file servers put beside the files of a user."""


def files_below(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """Files of these suffixes in a folder and its subfolders, sorted, without hidden ones.

    macOS puts ``._x.tif`` beside ``x.tif`` on foreign disks: its properties, under the suffix of a GeoTIFF.
    """
    wanted = set(suffixes)
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in wanted and not _is_foreign(path.relative_to(folder)) and path.is_file()
    )


def _is_foreign(inside: Path) -> bool:
    return any(part.startswith(".") or part in _FOREIGN for part in inside.parts)


def target_of_file(target: str, name: str) -> Path:
    """Path of the output of one file: ``name`` in the target, if that is a folder or written as one.

    Raises:
        UsageError: The target is a file where it would have to be a folder.
    """
    path = Path(target)
    if not path.is_dir() and not target.endswith("/"):
        return path
    require_folder(path)
    return path / name


def require_folder(path: Path) -> None:
    """Check that a folder can be made at a path, or is there.

    Raises:
        UsageError: A file is there.
    """
    blocked = next((p for p in (path, *path.parents) if p.exists()), None)
    if blocked is not None and not blocked.is_dir():
        raise UsageError(f"the output of a folder is a folder; {blocked} is a file. Name another folder")


@dataclass
class Outcomes:
    """What became of the files of a job.

    Attributes:
        alone: Whether the job is one file, whose error ends it.
        failures: Name, reason and message of each file that failed.
        warnings: What is not kept, by file.
    """

    alone: bool
    failures: list[dict[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @contextmanager
    def one(self, name: str, files: Iterable[Path]) -> Iterator[None]:
        """Block that handles one file; its error is noted, unless it is the only one."""
        try:
            yield
        except EoforgeError as error:
            if self.alone:
                raise
            self._note(name, error)
        except OSError as error:
            if error.filename is None or Path(error.filename) not in set(files):
                raise  # of the output or the machine: the next file would fail, too
            refusal = DataRefused(f"the operating system refused to read it: {error.strerror}")
            if self.alone:
                raise refusal from error
            self._note(name, refusal)

    def warn(self, name: str, lost: Iterable[str]) -> None:
        """Notes what of a file is not kept."""
        for what in lost:
            self.warnings.append(f"{name}: not kept: {what}")
            say(f"warning: {self.warnings[-1]}")

    def report(self, result: dict[str, Any], title: str) -> None:
        """Prints the result with the count of failures.

        Raises:
            typer.Exit: A file failed; the exit code is that of refused data.
        """
        counts: dict[str, Any] = {"failed": len(self.failures)} if self.failures else {}
        emit(
            result | counts,
            title=title,
            details={"failures": self.failures} | ({"warnings": self.warnings} if self.warnings else {}),
        )
        if self.failures:
            raise typer.Exit(DataRefused.exit_code)

    def _note(self, name: str, error: EoforgeError) -> None:
        self.failures.append({"name": name, "reason": error.reason, "message": str(error)})
        say(f"failed: {name}: {error}")
