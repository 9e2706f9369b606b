"""Kubeflow Pipelines of eoforge: ingest, train, index, evaluate, and the chain of them; see README.md."""
