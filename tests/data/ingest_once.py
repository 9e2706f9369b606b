"""One ingestion as a process of its own: says "ready" when everything is imported, starts on a line from stdin.

Usage: ``python ingest_once.py ARCHIVE TABLE WORKERS SHARD_ROWS``; prints the summary as one line of JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from eoforge.data.ingest import ingest

if __name__ == "__main__":  # the workers that an ingestion spawns import this module too
    archive, table, workers, shard_rows = sys.argv[1:]
    print("ready", flush=True)
    sys.stdin.readline()
    summary = ingest(archive, table, workers=int(workers), shard_rows=int(shard_rows))
    print(json.dumps(asdict(summary)), flush=True)
