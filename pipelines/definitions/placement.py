"""Cluster settings of a step: store access, limits, retries, GPU, tolerations, security context."""

from collections.abc import Callable
from typing import Any

from kfp import dsl, kubernetes

from pipelines.settings import (
    CA_CONFIG_MAP,
    CA_FOLDER,
    CONFIG_KEYS,
    CONFIG_MAP,
    ENCODE_PARALLELISM,
    GPU_RESOURCE,
    GPUS_PER_NODE,
    IMAGE,
    IMAGE_VARIABLE,
    SECRET,
    SECRET_KEYS,
    USER_ID,
)


def place(
    task: Any, *, cpu: str = "2", memory: str = "8Gi", gpu: bool = False, hours: int = 6, retries: int = 3
) -> Any:
    """Task with the settings of all steps and the limits of this one.

    kfp does not know the content of the store that a step reads or writes, so its cache is always off. Limits are
    constants: for parameters, kfp would add inputs to the task that its component does not declare.

    Args:
        task: The task.
        cpu: CPU limit; the request is half of it.
        memory: Memory limit and request.
        gpu: Whether the step needs a GPU.
        hours: Time limit of the pod.
        retries: Number of further attempts; each continues where the last one stopped.

    Returns:
        The task.
    """
    task.set_caching_options(False)
    task.set_display_name(task.name.replace("-", " ").capitalize())
    task.set_env_variable(IMAGE_VARIABLE, IMAGE)  # for lineage
    task.set_retry(retries, backoff_duration="30s", backoff_factor=2.0, backoff_max_duration="600s")
    task.set_cpu_request(f"{int(cpu) * 500}m").set_cpu_limit(cpu)
    task.set_memory_request(memory).set_memory_limit(memory)
    if gpu:
        task.set_accelerator_type(GPU_RESOURCE).set_accelerator_limit(GPUS_PER_NODE)
        kubernetes.add_toleration(task, key=GPU_RESOURCE, operator="Exists", effect="NoSchedule")
    # Optional: a service account with a cloud identity needs no secret, and AWS itself no endpoint.
    kubernetes.use_secret_as_env(task, secret_name=SECRET, secret_key_to_env=SECRET_KEYS, optional=True)
    kubernetes.use_config_map_as_env(task, config_map_name=CONFIG_MAP, config_map_key_to_env=CONFIG_KEYS, optional=True)
    kubernetes.use_config_map_as_volume(task, config_map_name=CA_CONFIG_MAP, mount_path=CA_FOLDER, optional=True)
    kubernetes.empty_dir_mount(task, volume_name="scratch", mount_path="/tmp", size_limit="50Gi")  # noqa: S108
    kubernetes.set_security_context(task, run_as_user=USER_ID, run_as_group=USER_ID, run_as_non_root=True)
    kubernetes.set_image_pull_policy(task, "IfNotPresent")
    kubernetes.set_timeout(task, hours * 3600)
    return task


def encode_in_shards(plan: Any, encode: Callable[[Any], Any], commit: Callable[[], Any]) -> Any:
    """Steps of a job over shards on GPUs: ranges in parallel, then one commit.

    Args:
        plan: Placed task of the plan, whose output "Output" lists the ranges.
        encode: Makes the task of one range.
        commit: Makes the task of the commit.

    Returns:
        The task of the commit.
    """
    with dsl.ParallelFor(plan.outputs["Output"], parallelism=ENCODE_PARALLELISM) as shard_range:
        part = place(encode(shard_range), cpu="8", memory="16Gi", gpu=True, hours=24)
    committed = place(commit())
    committed.after(part)
    return committed
