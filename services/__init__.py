"""gRPC and KServe services, one folder each, over a shared runtime."""

from eoforge.geo.gdal import confine_process

confine_process()
