"""The silo's side of a federation: waits for tasks, trains beside the data, sends what it learned, survives restarts.

Everything that a restart must not lose is on disk, one folder a run::

    <folder>/<run_id>/down/<digest>.safetensors   what was downloaded for the current round
                      update-<round>.safetensors  what was trained and may not have been acknowledged
                      update-<round>.json         its numbers; written last, so with it the update is whole
                      pending-<round>.safetensors the silo's state after the round, until the server has acknowledged it
                      state.safetensors           the silo's state (control variates, own layers, ...)

A silo that is killed while it trains does the round again and gets the same result; one that is killed while it uploads
sends the missing chunks; one that is killed after the server has acknowledged finds that out by answering again.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.client_base import RemoteError
from eoforge.client_federation_base import transient
from eoforge.client_silo import SiloClient
from eoforge.errors import DataRefused, EoforgeError, UsageError
from eoforge.federated.abandon import Abandoned, listening, stop_if_told
from eoforge.federated.inbox import Inbox
from eoforge.federated.objects import digest_of
from eoforge.federated.protect import clipped_and_noised
from eoforge.federated.secagg_silo import Masking
from eoforge.federated.spec import NoSource
from eoforge.federated.strategy import (
    Array,
    LocalResult,
    LocalTrainer,
    RoundInfo,
    SiloInfo,
    Strategy,
    Task,
    TensorSpec,
    UpdateInfo,
    name_of,
)
from eoforge.federated.tensorfile import read_file, read_specs, write_file
from eoforge.federated.transfer import file_manifest

Trainers = Callable[[pb.Task], LocalTrainer]
"""Makes the trainer of a run from its first task (method, configuration, strategy)."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
_MASKING = (pb.TASK_KIND_KEYS, pb.TASK_KIND_SHARES, pb.TASK_KIND_UNMASK)
_COUNTS = (pb.VERDICT_ACCEPTED, pb.VERDICT_FOLDED)

log = structlog.get_logger("silo")


class Silo:
    """One silo.

    Args:
        client: Connection to the coordinator.
        trainers: What trains.
        folder: Where its state is kept.
        modalities: What the silo holds.
        samples: Training samples.
        methods: What it can train; empty for anything that ``trainers`` makes.
        labels: Free-form labels.
        strategies: Makes the strategy of a task; needed for secure aggregation.
    """

    def __init__(
        self,
        client: SiloClient,
        trainers: Trainers,
        folder: str | Path,
        *,
        modalities: Sequence[str] = (),
        samples: int,
        methods: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        strategies: Callable[[pb.Task], Strategy] | None = None,
    ) -> None:
        self._client, self._trainers, self._folder = client, trainers, Path(folder)
        self._about: dict[str, Any] = {
            "modalities": list(modalities),
            "samples": samples,
            "methods": list(methods),
            "labels": dict(labels or {}),
        }
        self._strategies = strategies
        self._made: dict[str, LocalTrainer] = {}
        self._activity = "waiting"
        self._stopping = threading.Event()

    def run(self, *, until_end_of: str = "", appears_within: float = 0.0) -> pb.RunStatus | None:
        """Serves tasks, through restarts of coordinator and network.

        Args:
            until_end_of: Return when this run has ended; empty serves until :meth:`stop`.
            appears_within: Seconds that this run may take to be created; 0 for the coordinator's default.

        Returns:
            How that run ended, or None after :meth:`stop`.

        Raises:
            RemoteError: The coordinator refuses this silo, or there is no such run.
        """
        pause = FIRST_PAUSE_S
        while not self._stopping.is_set():
            try:
                registered = self._client.register(**self._about)
                log.info("registered", silo=registered.silo_id)
                with self._beating(registered.heartbeat.ToTimedelta().total_seconds()):
                    for given in Inbox(lambda: self._client.tasks(until_end_of, appears_within)):
                        pause, task = FIRST_PAUSE_S, given.task
                        with listening(given.off):
                            self._serve(task)
                        if task.kind == pb.TASK_KIND_END and task.run_id == until_end_of:
                            return task.status
            except RemoteError as error:
                if self._stopping.is_set():
                    return None
                if not transient(error):
                    raise
                log.warning("coordinator away, will come back", error=str(error)[:200])
            # Between half and one and a half of the pause, so that silos do not come back all at once.
            self._stopping.wait(pause * (0.5 + secrets.randbelow(1000) / 1000))
            pause = min(2 * pause, LONGEST_PAUSE_S)
        return None

    def stop(self) -> None:
        """Ends :meth:`run`; what is being trained goes on at the next start."""
        self._stopping.set()
        self._client.close()

    def _serve(self, task: pb.Task) -> None:
        self._activity = f"{pb.TaskKind.Name(task.kind).removeprefix('TASK_KIND_').lower()} {task.run_id}"
        try:
            if task.kind == pb.TASK_KIND_TRAIN:
                self._train(task)
            elif task.kind == pb.TASK_KIND_EVALUATE:
                self._evaluate(task)
            elif task.kind in _MASKING:
                self._mask_round(task)
            elif task.kind == pb.TASK_KIND_END:
                shutil.rmtree(self._path(task, "down"), ignore_errors=True)
        except RemoteError as error:
            if transient(error) or self._stopping.is_set():
                raise  # the task comes again when the coordinator is back
            log.warning("task refused", run=task.run_id, round=task.round, error=str(error))
        except Abandoned:
            log.info("task called off", run=task.run_id, round=task.round)
        except EoforgeError as error:
            log.exception("task failed", run=task.run_id, round=task.round)
            self._client.answer(task.run_id, task.round, failure=pb.FailureAnswer(reason=str(error)[:200]))
        finally:
            self._activity = "waiting"

    def _train(self, task: pb.Task) -> None:
        self._settle(task.run_id, task.round)
        numbers = self._path(task, f"update-{task.round}.json")
        if not numbers.exists():
            trained = self._download(task)
            result = self._trainer(task).train(trained, self._state(task))
            stop_if_told()
            tensors = clipped_and_noised(result.tensors, task)
            if task.privacy.secure_aggregation:
                share = self._share(task, trained, result)
                tensors = self._masking(task).mask(tensors, task, share)
            write_file(self._path(task, f"update-{task.round}.safetensors"), tensors)
            if result.state:
                write_file(self._path(task, f"pending-{task.round}.safetensors"), result.state)
            content = {
                "samples": result.examples,
                "steps": result.steps,
                "scalars": dict(result.scalars),
                "metrics": dict(result.metrics),
            }
            _write_text(numbers, json.dumps(content))
        self._hand_in(task.run_id, task.round)

    def _hand_in(self, run_id: str, number: int) -> None:
        """Uploads an update that is whole, and takes over the state that came with it once the server has it."""
        path = str(self._folder / run_id / f"update-{number}.safetensors")
        manifest = file_manifest(path)
        digest = digest_of(manifest)
        self._client.upload(run_id, number, path, manifest, digest)
        self._answer(run_id, number, digest)

    def _answer(self, run_id: str, number: int, digest: str) -> None:
        numbers = json.loads((self._folder / run_id / f"update-{number}.json").read_text())
        answered = self._client.answer(run_id, number, update=pb.UpdateAnswer(digest=digest, **numbers))
        log.info("answered", run=run_id, round=number, verdict=pb.Verdict.Name(answered.verdict), why=answered.reason)
        self._conclude(run_id, number, answered.verdict in _COUNTS)

    def _settle(self, run_id: str, current: int) -> None:
        """Finds out what became of updates of earlier rounds whose acknowledgement never arrived."""
        for path in sorted((self._folder / run_id).glob("update-*.json")):
            number = int(path.stem.removeprefix("update-"))
            if number == current:
                continue
            manifest = file_manifest(str(path.with_suffix(".safetensors")))
            try:
                self._answer(run_id, number, digest_of(manifest))
            except RemoteError as error:
                if transient(error):
                    raise
                self._conclude(run_id, number, counted=False)

    def _conclude(self, run_id: str, number: int, counted: bool) -> None:
        folder = self._folder / run_id
        pending = folder / f"pending-{number}.safetensors"
        if counted and pending.exists():
            os.replace(pending, folder / "state.safetensors")
        pending.unlink(missing_ok=True)
        (folder / f"update-{number}.json").unlink(missing_ok=True)
        (folder / f"update-{number}.safetensors").unlink(missing_ok=True)

    def _mask_round(self, task: pb.Task) -> None:
        secrets_of_round = self._masking(task)
        if task.kind == pb.TASK_KIND_KEYS:
            self._client.answer(task.run_id, task.round, keys=secrets_of_round.keys())
        elif task.kind == pb.TASK_KIND_SHARES:
            self._client.answer(task.run_id, task.round, shares=secrets_of_round.shares(task))
        else:
            self._client.answer(task.run_id, task.round, unmask=secrets_of_round.unmask(task))

    def _masking(self, task: pb.Task) -> Masking:
        return Masking(self._path(task, "down").parent, task.run_id, task.round, self._client.silo_id)

    def _share(self, task: pb.Task, trained: Task, result: LocalResult) -> float:
        """What this silo's update counts before normalisation: for strategies of sum type it depends on it alone.

        Raises:
            UsageError: No strategies are known here, or the strategy is of another kind.
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
        figures = dict(self._trainer(task).evaluate(self._download(task), self._state(task)))
        samples = int(figures.pop("examples", self._about["samples"]))
        answer = pb.EvaluationAnswer(samples=samples, metrics=figures)
        self._client.answer(task.run_id, task.round, evaluation=answer)

    def _download(self, task: pb.Task) -> Task:
        folder = self._path(task, "down")
        folder.mkdir(parents=True, exist_ok=True)
        wanted = {f"{item.digest}.safetensors" for item in task.objects}
        for old in folder.iterdir():
            if old.name.removesuffix(".partial") not in wanted:
                old.unlink()
        tensors: dict[str, Array] = {}
        for item in task.objects:
            if digest_of(item.manifest) != item.digest:  # it becomes a file name, and says what will be trained on
                raise DataRefused(f"the manifest of {item.name!r:.80} does not have the digest that the task names")
            path = folder / f"{item.digest}.safetensors"
            stop_if_told()
            self._client.download(task.run_id, item, path)
            specs = read_specs(path)
            for name, array in read_file(path).items():
                if specs[name].role != "counter":  # a group that goes down whole holds some; they are not for training
                    tensors[name_of(item.name, name)] = array
        # Strategies count rounds from 0, as the simulation does; people and the protocol from 1.
        return Task(task.round - 1, self._client.silo_id, tensors, dict(task.scalars))

    def _state(self, task: pb.Task) -> dict[str, Array]:
        path = self._path(task, "state.safetensors")
        return read_file(path) if path.exists() else {}

    def _trainer(self, task: pb.Task) -> LocalTrainer:
        if task.run_id not in self._made:
            self._made[task.run_id] = self._trainers(task)
        return self._made[task.run_id]

    def _path(self, task: pb.Task, name: str) -> Path:
        if not task.run_id or task.run_id.startswith(".") or "/" in task.run_id:
            raise UsageError(f"the coordinator named a run {task.run_id!r:.80}, which is no plain name")
        folder = self._folder / task.run_id
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    @contextmanager
    def _beating(self, seconds: float) -> Iterator[None]:
        """Tells the coordinator every ``seconds`` that this silo lives, while it trains too."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(seconds):
                try:
                    self._client.heartbeat(self._activity)
                except RemoteError as error:
                    log.debug("heartbeat not heard", error=str(error)[:200])

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _write_text(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    os.replace(partial, path)
