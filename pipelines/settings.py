"""Settings of the compiled pipelines: names of image, secret and config map, and sizes.

The charts create objects with these names.
"""

from __future__ import annotations

import os

# kfp.local warns about every step whose image name does not contain "python".
IMAGE_VARIABLE = "EOFORGE_PIPELINES_IMAGE"
IMAGE = os.environ.get(IMAGE_VARIABLE, "eoforge/pipelines-python:0.1.0")
"""Image of every step, by tag or digest, with eoforge, pipelines and kfp: no step installs packages at run time."""

SECRET = "eoforge-s3"  # noqa: S105  # the name of a Kubernetes secret, not its content
SECRET_KEYS = {"AWS_ACCESS_KEY_ID": "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY": "AWS_SECRET_ACCESS_KEY"}
CONFIG_MAP = "eoforge-config"
RUNTIME_KIND = "EOFORGE_TRAINING_RUNTIME_KIND"
"""Variable with the kind of the training runtime: TrainingRuntime of the chart; unset, that of the cluster."""
CONFIG_KEYS = {
    key: key for key in ("AWS_ENDPOINT_URL", "AWS_REGION", "SSL_CERT_FILE", "EOFORGE_SHARED_SCRATCH", RUNTIME_KIND)
}
"""The pods of an ingestion share the index of a tar archive on the shared scratch; the commit deletes it."""
CA_CONFIG_MAP = "eoforge-ca"
"""Config map, mounted if it exists, with CA certificates of a store that the image does not trust."""
CA_FOLDER = "/etc/eoforge/s3-ca"
"""Mount path of that config map; ``SSL_CERT_FILE`` in ``eoforge-config`` names a file in it."""

FEDERATION_SECRET = "eoforge-federation-operator"  # noqa: S105  # the name of a Kubernetes secret, not its content
"""Secret with the operator certificate of federated runs: ``ca.crt``, ``tls.crt``, ``tls.key`` as of cert-manager."""
FEDERATION_CREDENTIALS = "/etc/eoforge/federation"
"""Mount path of that secret; without a cluster, ``EOFORGE_FEDERATION_CREDENTIALS`` names another folder."""

USER_ID = 10001
"""User and group of the image; pods run as non-root."""

NAMESPACE = "EOFORGE_NAMESPACE"
"""Namespace of a step's pod; set on a cluster alone."""

GPU_RESOURCE = "nvidia.com/gpu"
GPUS_PER_NODE = 1

MAX_ITERATIONS = 64
"""Limit of iterations of a ParallelFor: larger plans have longer ranges, not more pods."""
INGEST_PARALLELISM = 16
ENCODE_PARALLELISM = 8

TRAINING_RUNTIME = "torch-distributed"
SERVICE_ACCOUNT = "pipeline-runner"
"""Service account of the training pods, which is the account of the steps of a Kubeflow run."""
