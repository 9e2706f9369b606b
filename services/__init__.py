"""gRPC and KServe services, one folder each, over a shared runtime."""
