"""Kubeflow pipelines: thin wrappers over plain functions of the library."""
