"""Kubeflow Pipelines of eoforge: ingest, train, index, evaluate, and all in one run; see README.md."""

from eoforge.geo.gdal import confine_process

confine_process()
