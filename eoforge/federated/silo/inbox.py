"""Queue of a silo's tasks: a thread reads ahead, so that a task can be cancelled while it is being worked on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from eoforge.api.federation.v1 import federation_pb2 as pb


@dataclass(frozen=True)
class ReceivedTask:
    """A task, and the event that is set when the coordinator cancels it."""

    task: pb.Task
    cancelled: threading.Event = field(default_factory=threading.Event)


class Inbox:
    """Queue of tasks in the order of their arrival.

    Args:
        stream: Opens the coordinator's stream of tasks; the stream ends or raises when the coordinator goes away.
    """

    def __init__(self, stream: Callable[[], Iterator[pb.Task]]) -> None:
        self._stream = stream
        self._arrived: queue.SimpleQueue[ReceivedTask | Exception | None] = queue.SimpleQueue()
        self._open: list[ReceivedTask] = []
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[ReceivedTask]:
        """Tasks until the stream ends; its error is raised after those that came before it."""
        tasks = self._stream()  # opened here, so that a refusal is raised at once
        threading.Thread(target=self._read, args=(tasks,), name="tasks", daemon=True).start()
        while (arrived := self._arrived.get()) is not None:
            if isinstance(arrived, Exception):
                raise arrived
            try:
                if not arrived.cancelled.is_set():
                    yield arrived
            finally:
                with self._lock:
                    self._open = [received for received in self._open if received is not arrived]

    def _read(self, tasks: Iterator[pb.Task]) -> None:
        try:
            for task in tasks:
                self._take(task)
        except Exception as error:  # raised again in __iter__
            self._arrived.put(error)
        else:
            self._arrived.put(None)

    def _take(self, task: pb.Task) -> None:
        received = ReceivedTask(task)
        with self._lock:
            for earlier in self._open:
                ended = task.kind == pb.TASK_KIND_END
                if earlier.task.run_id == task.run_id and (
                    ended or (task.kind == pb.TASK_KIND_ABANDON and earlier.task.round <= task.round)
                ):
                    earlier.cancelled.set()
            self._open.append(received)
        self._arrived.put(received)
