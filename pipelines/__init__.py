"""Kubeflow Pipelines of eoforge: ingest, train, index, evaluate, and the chain of them; see README.md."""

from eoforge.geo.gdal import confine_process

confine_process()
