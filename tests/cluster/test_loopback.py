"""Nothing of the cluster can be reached from another machine while it runs."""

from __future__ import annotations

import psutil
import pytest

from tests.cluster import binaries
from tests.cluster.control_plane import LOOPBACK, ControlPlane


@pytest.mark.skipif(binaries.existing(), reason="a cluster that is there listens where its owner wants")
def test_every_program_listens_on_loopback(cluster: ControlPlane) -> None:
    own = {process.pid: process for process in psutil.Process().children(recursive=True)}
    listening = [c for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN and c.pid in own]
    assert len({c.pid for c in listening}) >= len(("etcd", "API server", "kwok", "KServe", "JobSet", "Trainer"))
    assert [
        f"{own[c.pid].name()} {c.laddr}" for c in listening if c.laddr.ip not in (LOOPBACK, f"::ffff:{LOOPBACK}")
    ] == []
