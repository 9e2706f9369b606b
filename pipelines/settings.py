"""What the compiled pipelines expect of the cluster: image, secret, config map, sizes.

The charts create objects of the same names.
"""

from __future__ import annotations

import os

# kfp.local warns about every step whose image name does not contain "python".
IMAGE = os.environ.get("EOFORGE_PIPELINES_IMAGE", "eoforge/pipelines-python:0.1.0")
"""Image of every step; it holds eoforge, pipelines and kfp, so that no step installs anything at run time."""

SECRET = "eoforge-s3"  # noqa: S105  # the name of a Kubernetes secret, not its content
SECRET_KEYS = {"AWS_ACCESS_KEY_ID": "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY": "AWS_SECRET_ACCESS_KEY"}
CONFIG_MAP = "eoforge-config"
RUNTIME_KIND = "EOFORGE_TRAINING_RUNTIME_KIND"
"""TrainingRuntime where the chart brings one into the namespace; unset, the cluster's own runtimes are meant."""
CONFIG_KEYS = {
    key: key for key in ("AWS_ENDPOINT_URL", "AWS_REGION", "SSL_CERT_FILE", "EOFORGE_SHARED_SCRATCH", RUNTIME_KIND)
}
"""The scratch is where the pods of an ingestion share the index of a tar archive; its commit empties it."""
CA_CONFIG_MAP = "eoforge-ca"
"""CA certificates of a store that the image does not trust; mounted where it is there."""
CA_FOLDER = "/etc/eoforge/s3-ca"
"""Where that config map is mounted; ``SSL_CERT_FILE`` of the other one names a file in it."""

FEDERATION_SECRET = "eoforge-federation-operator"  # noqa: S105  # the name of a Kubernetes secret, not its content
"""Certificate that a federated run is started with: ``ca.crt``, ``tls.crt`` and ``tls.key``, as cert-manager writes."""
FEDERATION_CREDENTIALS = "/etc/eoforge/federation"
"""Where that secret is mounted; ``EOFORGE_FEDERATION_CREDENTIALS`` names another folder where there is no cluster."""

USER_ID = 10001
"""User and group of the image; pods run as non-root."""

NAMESPACE = "EOFORGE_NAMESPACE"
"""Namespace of a step's pod; set on a cluster alone."""

GPU_RESOURCE = "nvidia.com/gpu"
GPUS_PER_NODE = 1

MAX_ITERATIONS = 64
"""Most iterations that a ParallelFor gets: a plan larger than that gets longer ranges, not more pods."""
INGEST_PARALLELISM = 16
ENCODE_PARALLELISM = 8

TRAINING_RUNTIME = "torch-distributed"
SERVICE_ACCOUNT = "pipeline-runner"
"""Service account of the training pods: the one that Kubeflow Pipelines gives the steps of a run."""
