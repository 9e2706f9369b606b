"""Tasks on their way to a silo: read ahead on a thread, so that a task is called off while it is being worked on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from eoforge.api.federation.v1 import federation_pb2 as pb


@dataclass(frozen=True)
class Given:
    """A task and whether it was called off."""

    task: pb.Task
    off: threading.Event = field(default_factory=threading.Event)


class Inbox:
    """Tasks in the order of their arrival.

    Args:
        stream: Where they come from; it ends or raises when the coordinator goes away.
    """

    def __init__(self, stream: Callable[[], Iterator[pb.Task]]) -> None:
        self._stream = stream
        self._arrived: queue.SimpleQueue[Given | Exception | None] = queue.SimpleQueue()
        self._open: list[Given] = []
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Given]:
        """Tasks until the stream ends; its error is raised after those that came before it."""
        tasks = self._stream()  # here, so that who is refused at once hears so at once
        threading.Thread(target=self._read, args=(tasks,), name="tasks", daemon=True).start()
        while (arrived := self._arrived.get()) is not None:
            if isinstance(arrived, Exception):
                raise arrived
            try:
                if not arrived.off.is_set():
                    yield arrived
            finally:
                with self._lock:
                    self._open = [given for given in self._open if given is not arrived]

    def _read(self, tasks: Iterator[pb.Task]) -> None:
        try:
            for task in tasks:
                self._take(task)
        except Exception as error:  # whatever it is, it belongs to whoever reads
            self._arrived.put(error)
        else:
            self._arrived.put(None)

    def _take(self, task: pb.Task) -> None:
        given = Given(task)
        with self._lock:
            for earlier in self._open:
                ended = task.kind == pb.TASK_KIND_END
                if earlier.task.run_id == task.run_id and (
                    ended or (task.kind == pb.TASK_KIND_ABANDON and earlier.task.round <= task.round)
                ):
                    earlier.off.set()
            self._open.append(given)
        self._arrived.put(given)
