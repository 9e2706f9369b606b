"""KServe's Open Inference Protocol V2: requests, tensors and answers over gRPC and REST.

A service imports only :mod:`services._runtime.inference` at its start; that loads this package, and KServe with it.
"""
