"""Training as a Kubeflow TrainJob: create or adopt, watch, read logs, clean up.

The step that launches it holds no GPU: tolerations and environment set on the step go to the training pods, added to
what the training runtime says. A step that is retried finds the TrainJob of its first attempt by name and goes on
waiting for it.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import stamina

from eoforge.bundle import MANIFEST, load_bundle
from eoforge.errors import ConflictError, EoforgeError, NotFound
from eoforge.storage.addresses import join
from eoforge.storage.objects import ObjectStore
from pipelines.settings import NAMESPACE
from pipelines.training import TAIL_LINES, ClusterOptions, TrainingJob, training_error
from pipelines.trainjob_object import CONTAINER, GROUP, VERSION, runtime_kind, train_job

if TYPE_CHECKING:
    from kfp.dsl import TaskConfig
    from kubernetes.client import ApiClient

    from eoforge.bundle import Bundle

PLURAL = "trainjobs"
RUNTIMES, CLUSTER_RUNTIMES = "trainingruntimes", "clustertrainingruntimes"
WATCH_SECONDS = 240
"""Longest single watch request; proxies cut longer ones."""


def _transient(error: Exception) -> bool:
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    return isinstance(error, HTTPError) or (isinstance(error, ApiException) and error.status in (0, 429, 500, 503, 504))


@dataclass
class ClusterLauncher:
    """Trains in a TrainJob in the namespace of this pod.

    Attributes:
        options: Image, runtime, nodes.
        task: Settings that Kubeflow put on the step.
        client: Connection to the API server; that of the pod by default.
        namespace: That of the pod by default.
    """

    options: ClusterOptions
    task: TaskConfig
    client: ApiClient | None = None
    namespace: str = ""

    def __post_init__(self) -> None:
        from kubernetes import client, config

        if self.client is None:
            config.load_incluster_config()
        self.namespace = self.namespace or os.environ.get(NAMESPACE, "default")
        self._jobs = client.CustomObjectsApi(self.client)
        self._core = client.CoreV1Api(self.client)

    def train(self, job: TrainingJob, *, timeout_s: int) -> Bundle:
        """See :class:`pipelines.training.Launcher`."""
        before = set(_bundles(job.out))
        with self._stopped_with_us(job.name):
            self._create_or_adopt(job, timeout_s)
            outcome = self._wait(job.name, timeout_s)
            tail = self._log_tail(job.name)
        print("\n".join(tail), flush=True)
        if outcome["type"] != "Complete":
            raise training_error(job, f"{outcome.get('reason', 'Failed')}: {outcome.get('message', '')}", tail)
        if not self.options.keep_job:
            self._delete(job.name)
        return load_bundle(_only_bundle(job.out, before))

    def _create_or_adopt(self, job: TrainingJob, timeout_s: int) -> None:
        from kubernetes.client import ApiException

        body = train_job(job, self.options, self.task, self.namespace, timeout_s, self._runtime())
        for _ in range(2):
            try:
                self._call(self._jobs.create_namespaced_custom_object, GROUP, VERSION, self.namespace, PLURAL, body)
            except ApiException as error:
                if error.status != 409:
                    raise EoforgeError(
                        f"cannot create TrainJob {job.name} in namespace {self.namespace}: {error.reason}: "
                        f"{error.body}. Is Kubeflow Trainer installed, and may this service account create trainjobs?"
                    ) from error
                found = self._get(job.name)
                if found is None or _outcome(found).get("type") == "Failed":
                    self._delete(job.name)  # what an earlier run left; training resumes from its checkpoints
                    continue
                print(f"TrainJob {job.name} exists: waiting for it", flush=True)
                return
            print(f"TrainJob {job.name} created in namespace {self.namespace}", flush=True)
            return
        raise ConflictError(f"TrainJob {job.name} of an earlier run is still being deleted; run the step again")

    def _runtime(self) -> dict[str, Any] | None:
        """The training runtime, so that what it says is kept; None where this service account may not read it."""
        from kubernetes.client import ApiException

        kind, name = runtime_kind(), self.options.runtime
        try:
            if kind == "ClusterTrainingRuntime":
                found = self._call(self._jobs.get_cluster_custom_object, GROUP, VERSION, CLUSTER_RUNTIMES, name)
            else:
                found = self._call(
                    self._jobs.get_namespaced_custom_object, GROUP, VERSION, self.namespace, RUNTIMES, name
                )
        except ApiException as error:
            if error.status == 404:
                raise NotFound(
                    f"there is no {kind} {name} for training in namespace {self.namespace}; name another as runtime, "
                    "or set kubeflow.trainingRuntime.enabled"
                ) from error
            if error.status != 403:
                raise EoforgeError(f"cannot read {kind} {name}: {error.reason}: {error.body}") from error
            print(f"{kind} {name} may not be read: tolerations of this step replace those of the runtime", flush=True)
            return None
        return dict(found)

    def _wait(self, name: str, timeout_s: int) -> dict[str, Any]:
        """Watches until the job is Complete or Failed and returns that condition."""
        from kubernetes import watch
        from kubernetes.client import ApiException

        deadline = time.monotonic() + timeout_s
        state = ""
        while (left := deadline - time.monotonic()) > 0:
            found = self._get(name)
            if found is None:
                raise NotFound(f"TrainJob {name} was deleted while this step waited for it; run the step again")
            if outcome := _outcome(found):
                return outcome
            state = _report(found, state)
            try:
                for event in watch.Watch().stream(
                    self._jobs.list_namespaced_custom_object,
                    GROUP,
                    VERSION,
                    self.namespace,
                    PLURAL,
                    field_selector=f"metadata.name={name}",
                    resource_version=found["metadata"]["resourceVersion"],
                    timeout_seconds=max(1, int(min(left, WATCH_SECONDS))),
                ):
                    if event["type"] == "DELETED" or _outcome(event["object"]):
                        break
                    state = _report(event["object"], state)
            except ApiException as error:
                if error.status != 410 and not _transient(error):  # 410: the version is too old to watch from
                    raise
                time.sleep(min(1.0, left))
        self._delete(name)
        raise EoforgeError(
            f"training {name} took longer than {timeout_s} s and was stopped (last state: {state or 'pending'}). "
            "Run it again with a larger timeout: it resumes from its last checkpoint"
        )

    def _log_tail(self, name: str) -> deque[str]:
        """Last lines of the first pod; empty where the pod is gone."""
        from kubernetes.client import ApiException

        selector = f"jobset.sigs.k8s.io/jobset-name={name}"
        try:
            pods = self._call(self._core.list_namespaced_pod, self.namespace, label_selector=selector).items
            if not pods:
                return deque()
            first = min(pod.metadata.name for pod in pods)
            text = self._call(
                self._core.read_namespaced_pod_log, first, self.namespace, container=CONTAINER, tail_lines=TAIL_LINES
            )
        except ApiException as error:
            return deque([f"(the log of {name} cannot be read: {error.reason})"])
        return deque(text.splitlines(), maxlen=TAIL_LINES)

    def _get(self, name: str) -> dict[str, Any] | None:
        from kubernetes.client import ApiException

        try:
            found: dict[str, Any] = self._call(
                self._jobs.get_namespaced_custom_object, GROUP, VERSION, self.namespace, PLURAL, name
            )
        except ApiException as error:
            if error.status == 404:
                return None
            raise
        return found

    def _delete(self, name: str) -> None:
        from kubernetes.client import ApiException

        try:
            self._call(self._jobs.delete_namespaced_custom_object, GROUP, VERSION, self.namespace, PLURAL, name)
        except ApiException as error:
            if error.status != 404:
                raise
        for _ in range(30):  # its pods go first
            if self._get(name) is None:
                return
            time.sleep(1.0)

    def _call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        for attempt in stamina.retry_context(on=_transient, attempts=5):
            with attempt:
                return function(*args, **kwargs)

    @contextmanager
    def _stopped_with_us(self, name: str) -> Iterator[None]:
        """Deletes the job if this step is stopped: a run that is terminated must not go on burning GPUs."""

        def stop(_number: int, _frame: object) -> None:
            self._delete(name)
            raise SystemExit(f"TrainJob {name} deleted because this step was stopped; a new run resumes it")

        previous = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)


def _outcome(found: dict[str, Any]) -> dict[str, Any]:
    """The condition that ended the job, or an empty dict while it runs."""
    for condition in found.get("status", {}).get("conditions", []):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return dict(condition)
    return {}


def _report(found: dict[str, Any], last: str) -> str:
    jobs = found.get("status", {}).get("jobsStatus", [])
    state = ", ".join(f"{j['name']}: {j.get('active', 0)} active, {j.get('failed', 0)} failed" for j in jobs)
    if state and state != last:
        print(f"TrainJob {found['metadata']['name']}: {state}", flush=True)
    return state or last


def _bundles(out: str) -> list[str]:
    """Bundles directly below the folder of a run; those of earlier stages lie in folders of their own below it."""
    names = (key.rpartition(f"/{MANIFEST}") for key in ObjectStore(out).list())
    return [join(out, name) for name, end, rest in names if end and not rest and "/" not in name]


def _only_bundle(out: str, before: set[str]) -> str:
    found = _bundles(out)
    new = [uri for uri in found if uri not in before]
    if len(candidates := new or found) != 1:
        raise ConflictError(
            f"the TrainJob is complete and one bundle was expected below {out}; there are {len(candidates)}. "
            "Remove what does not belong there and run the step again"
        )
    return candidates[0]
