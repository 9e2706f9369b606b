"""Silo of a federation: receives tasks, trains on local data, uploads updates, and survives restarts.

All state that must survive a restart is on disk: see :mod:`eoforge.federated.silo.files`. A silo that was killed while
training repeats the round with the same result; one that was killed while uploading sends the missing chunks; one that
was killed after the server's acknowledgement answers again and learns of it.
"""

from __future__ import annotations

import math
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.client.base import RemoteError, RemoteRefused
from eoforge.client.federation_base import transient
from eoforge.client.silo import SiloClient
from eoforge.errors import DataRefused, EoforgeError, UsageError
from eoforge.federated.privacy.clipping import clipped_and_noised
from eoforge.federated.privacy.silo_masks import Masking
from eoforge.federated.run.spec import NoSource
from eoforge.federated.silo.cancellation import TaskCancelled, cancellation_by, raise_if_cancelled
from eoforge.federated.silo.files import SiloFiles
from eoforge.federated.silo.inbox import Inbox
from eoforge.federated.strategy import (
    LocalResult,
    LocalTrainer,
    RoundInfo,
    SiloInfo,
    Strategy,
    Task,
    UpdateInfo,
    name_of,
)
from eoforge.storage.chunks import digest_of, file_manifest
from eoforge.storage.tensorfile import Array, TensorSpec, read_file, read_specs

Trainers = Callable[[pb.Task], LocalTrainer]
"""Builder of a run's trainer from its first task (method, configuration, strategy)."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
_MASKING = (pb.TASK_KIND_KEYS, pb.TASK_KIND_SHARES, pb.TASK_KIND_UNMASK)
_ACCEPTED = (pb.VERDICT_ACCEPTED, pb.VERDICT_FOLDED)

log = structlog.get_logger("silo")


class Silo:
    """One silo.

    Args:
        client: Connection to the coordinator.
        trainers: Builder of a run's trainer.
        folder: Folder of the silo's state.
        modalities: Modalities of its patches.
        samples: Number of training samples.
        methods: Methods that it can train; empty for every method that ``trainers`` supports.
        labels: Free-form labels.
        strategies: Builder of a task's strategy; needed for secure aggregation.
        snapshot: Current ``samples``, ``validation_samples`` and ``data_version`` of the silo's data, taken at every
            registration and after each run. A run uses the version that was registered when it began.
    """

    def __init__(
        self,
        client: SiloClient,
        trainers: Trainers,
        folder: str | Path,
        *,
        modalities: Sequence[str] = (),
        samples: int = 0,
        methods: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        strategies: Callable[[pb.Task], Strategy] | None = None,
        snapshot: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self._client, self._trainers, self._folder = client, trainers, Path(folder)
        self._about: dict[str, Any] = {
            "modalities": list(modalities),
            "samples": samples,
            "methods": list(methods),
            "labels": dict(labels or {}),
        }
        self._strategies, self._snapshot = strategies, snapshot
        self._without_validation: set[str] = set()
        self._made: dict[str, tuple[tuple[Timestamp, str], LocalTrainer]] = {}
        self._activity = "waiting"
        self._stopping = threading.Event()

    def run(self, *, until_end_of: str = "", appears_within: float = 0.0) -> pb.RunStatus | None:
        """Loop over tasks, with reconnection after faults of coordinator or network.

        Args:
            until_end_of: Run at whose end to return; empty to serve until :meth:`stop`.
            appears_within: Seconds within which that run must be created; 0 for the coordinator's default.

        Returns:
            Final status of that run, or None after :meth:`stop`.

        Raises:
            RemoteError: The coordinator refuses this silo, or there is no such run.
        """
        pause = FIRST_PAUSE_S
        while not self._stopping.is_set():
            try:
                registered = self._register()
                log.info("registered", silo=registered.silo_id)
                with self._heartbeats(registered.heartbeat.ToTimedelta().total_seconds()):
                    for received in Inbox(lambda: self._client.tasks(until_end_of, appears_within)):
                        pause, task = FIRST_PAUSE_S, received.task
                        with cancellation_by(received.cancelled):
                            self._serve(task)
                        if task.kind == pb.TASK_KIND_END and task.run_id == until_end_of:
                            return task.status
            except RemoteError as error:
                if self._stopping.is_set():
                    return None
                if not transient(error):
                    raise
                log.warning("coordinator unreachable, will retry", error=str(error)[:200])
            # Jitter of 50 %, so that silos do not reconnect all at once.
            self._stopping.wait(pause * (0.5 + secrets.randbelow(1000) / 1000))
            pause = min(2 * pause, LONGEST_PAUSE_S)
        return None

    def _register(self) -> pb.RegisterResponse:
        if self._snapshot is not None:
            self._about |= self._snapshot()
        return self._client.register(**self._about)

    def stop(self) -> None:
        """End of :meth:`run`; an interrupted round is repeated at the next start."""
        self._stopping.set()
        self._client.close()

    def _serve(self, task: pb.Task) -> None:
        self._activity = f"{pb.TaskKind.Name(task.kind).removeprefix('TASK_KIND_').lower()} {task.run_id}"
        try:
            self._dispatch(task)
        except RemoteError as error:
            if transient(error) or self._stopping.is_set():
                raise  # the coordinator sends the task again
            log.warning("task refused", run=task.run_id, round=task.round, error=str(error))
            if isinstance(error, RemoteRefused):  # a repetition would be refused too
                self._report_failure(task, str(error))
        except TaskCancelled:
            log.info("task cancelled", run=task.run_id, round=task.round)
        except Exception as error:  # of any kind: the round must not wait for it, and other runs go on
            log.exception("task failed", run=task.run_id, round=task.round)
            known = isinstance(error, EoforgeError)
            self._report_failure(task, str(error) if known else f"{type(error).__name__}; the silo's log says more")
        finally:
            self._activity = "waiting"

    def _dispatch(self, task: pb.Task) -> None:
        if task.kind == pb.TASK_KIND_TRAIN:
            self._train(task)
        elif task.kind == pb.TASK_KIND_EVALUATE:
            self._evaluate(task)
        elif task.kind in _MASKING:
            self._mask_round(task)
        elif task.kind == pb.TASK_KIND_END:
            self._made.pop(task.run_id, None)
            self._without_validation.discard(task.run_id)
            if self._snapshot is not None and not self._snapshot().items() <= self._about.items():
                self._register()  # its data have changed: the next run uses the new version
            if (self._folder / task.run_id).is_dir():
                self._files(task).end_run()

    def _report_failure(self, task: pb.Task, reason: str) -> None:
        try:
            self._client.answer(task.run_id, task.round, failure=pb.FailureAnswer(reason=reason[:200]))
        except RemoteError as error:
            if transient(error):
                raise
            log.info("failure not reported, task closed", run=task.run_id, round=task.round, error=str(error))

    def _train(self, task: pb.Task) -> None:
        files = self._files(task)
        self._settle(files, task)
        if not files.numbers(task.round):
            trained = self._download(task)
            result = self._trainer(task).train(trained, files.state())
            raise_if_cancelled()
            tensors = clipped_and_noised(result.tensors, task)
            if task.privacy.secure_aggregation:
                share = self._share(task, trained, result)
                tensors = self._masking(task).mask(tensors, task, share)
            files.keep(task.round, replace(result, metrics=_finite(result.metrics)), tensors)
        self._upload(files, task.run_id, task.round)

    def _upload(self, files: SiloFiles, run_id: str, number: int) -> None:
        """Upload of a complete update, and its acknowledgement."""
        path = str(files.update(number))
        manifest = file_manifest(path)
        digest = digest_of(manifest)
        self._client.upload(run_id, number, path, manifest, digest)
        self._answer(files, run_id, number, digest)

    def _answer(self, files: SiloFiles, run_id: str, number: int, digest: str) -> None:
        update = pb.UpdateAnswer(digest=digest, **files.numbers(number))
        answered = self._client.answer(run_id, number, update=update)
        log.info("answered", run=run_id, round=number, verdict=pb.Verdict.Name(answered.verdict), why=answered.reason)
        files.settle(number, answered.verdict in _ACCEPTED)

    def _settle(self, files: SiloFiles, task: pb.Task) -> None:
        """Acknowledgement of updates of earlier rounds that were sent without receiving it."""
        for number in files.unacknowledged():
            if number == task.round:
                continue
            manifest = file_manifest(str(files.update(number)))
            try:
                self._answer(files, task.run_id, number, digest_of(manifest))
            except RemoteError as error:
                if transient(error):
                    raise
                files.settle(number, accepted=False)

    def _mask_round(self, task: pb.Task) -> None:
        secrets_of_round = self._masking(task)
        if task.kind == pb.TASK_KIND_KEYS:
            self._client.answer(task.run_id, task.round, keys=secrets_of_round.keys())
        elif task.kind == pb.TASK_KIND_SHARES:
            self._client.answer(task.run_id, task.round, shares=secrets_of_round.shares(task))
        else:
            self._client.answer(task.run_id, task.round, unmask=secrets_of_round.unmask(task))

    def _masking(self, task: pb.Task) -> Masking:
        return self._files(task).masking(task.round, self._client.silo_id)

    def _share(self, task: pb.Task, trained: Task, result: LocalResult) -> float:
        """Weight of this silo's update before normalisation, which for sum-type strategies depends on the silo alone.

        Raises:
            UsageError: The silo has no builder of strategies, or the strategy is not of sum type.
        """
        if self._strategies is None:
            raise UsageError("secure aggregation needs a silo that knows the run's strategy")
        strategy = self._strategies(task)
        state = {name: TensorSpec(array.shape, array.dtype.name) for name, array in trained.tensors.items()}
        info = SiloInfo(self._client.silo_id, result.examples)
        update = UpdateInfo(info.id, result.examples, result.steps, frozenset(result.tensors), dict(result.scalars))
        outputs = strategy.reduction(RoundInfo(trained.round, (info,), (update,)), state, NoSource()).outputs
        shares = {share for output in outputs for add in output.add for share in add.shares.values()}
        if len(shares) != 1:
            raise UsageError(f"{strategy.name} gives a silo {len(shares)} shares; secure aggregation needs one")
        return shares.pop()

    def _evaluate(self, task: pb.Task) -> None:
        if not self._trainer(task).evaluates:
            if task.run_id not in self._without_validation:
                log.info("no validation patches: this silo is left out of evaluation", run=task.run_id)
            self._without_validation.add(task.run_id)
            self._client.answer(task.run_id, task.round, evaluation=pb.EvaluationAnswer())
            return
        figures = _finite(self._trainer(task).evaluate(self._download(task), self._files(task).state()))
        samples = int(figures.pop("examples", self._about["samples"]))
        answer = pb.EvaluationAnswer(samples=samples, metrics=figures)
        self._client.answer(task.run_id, task.round, evaluation=answer)

    def _download(self, task: pb.Task) -> Task:
        folder = self._files(task).down({item.digest for item in task.objects})
        tensors: dict[str, Array] = {}
        for item in task.objects:
            if digest_of(item.manifest) != item.digest:  # the digest becomes a file name and identifies the tensors
                raise DataRefused(f"the manifest of {item.name!r:.80} does not have the digest that the task names")
            path = folder / f"{item.digest}.safetensors"
            raise_if_cancelled()
            self._client.download(task.run_id, item, path)
            specs = read_specs(path)
            for name, array in read_file(path).items():
                if specs[name].role != "counter":  # groups that are downloaded as a whole hold counters too
                    tensors[name_of(item.name, name)] = array
        # Strategies and the simulation count rounds from 0, the protocol from 1.
        return Task(task.round - 1, self._client.silo_id, tensors, dict(task.scalars))

    def _trainer(self, task: pb.Task) -> LocalTrainer:
        made, key = self._made.get(task.run_id), (task.created_at, task.data_version)
        if made is None or made[0] != key:
            made = self._made[task.run_id] = (key, self._trainers(task))
        return made[1]

    def _files(self, task: pb.Task) -> SiloFiles:
        return SiloFiles(self._folder, task)

    @contextmanager
    def _heartbeats(self, seconds: float) -> Iterator[None]:
        """Heartbeat to the coordinator every ``seconds``, from a thread of its own."""
        stopped = threading.Event()

        def beat() -> None:
            while not stopped.wait(seconds):
                try:
                    self._client.heartbeat(self._activity)
                except RemoteError as error:
                    log.debug("heartbeat failed", error=str(error)[:200])

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    """Figures without those that are not defined on this silo's patches."""
    return {name: value for name, value in figures.items() if math.isfinite(value)}
