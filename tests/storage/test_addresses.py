"""Addresses, the object store, and the S3 server of the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lance
import psutil
import pyarrow as pa
import pytest

from eoforge.errors import NotFound, StoreError, UsageError
from eoforge.storage.addresses import (
    TableRef,
    join,
    normalise,
    open_table,
    storage_options,
    table_exists,
    table_to_write,
)
from eoforge.storage.objects import ObjectStore
from eoforge.storage.seaweed import free_ports


@pytest.mark.parametrize(
    ("text", "uri", "version"),
    [
        ("/a/t.lance", "/a/t.lance", None),
        ("/a/t.lance@7", "/a/t.lance", 7),
        ("/a@b/t.lance", "/a@b/t.lance", None),
        ("/a/me@home.lance", "/a/me@home.lance", None),
        ("/a/me@home.lance@3", "/a/me@home.lance", 3),
        ("s3://lake/t.lance@12", "s3://lake/t.lance", 12),
        ("s3://lake/t.lance/", "s3://lake/t.lance", None),
        ("/a/t.lance@7/", "/a/t.lance", 7),
    ],
)
def test_tables_are_named_with_or_without_version(text: str, uri: str, version: int | None) -> None:
    assert TableRef.parse(text) == TableRef(uri, version)


@pytest.mark.parametrize(
    "text", ["", " ", "/t.lance@", "/t.lance@0", "/t.lance@-1", "/t.lance@x", "gs://b/t.lance", "s3://"]
)
def test_addresses_that_mean_nothing(text: str) -> None:
    with pytest.raises(UsageError):
        TableRef.parse(text)


@pytest.mark.parametrize(
    "address",
    [
        "s3://lake/a//b",
        "s3://lake//b",
        "s3://lake/./b",
        "s3://lake/a/../b",
        "s3://lake/..",
        "s3://lake/a\\b",
        "s3://lake/a\nb",
        "s3://lake/a\x7fb",
        "s3://la?ke/b",
        "s3://la%20ke/b",
        "s3://#/b",
    ],
)
def test_an_address_that_stores_read_differently_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="s3://"):
        normalise(address)


@pytest.mark.parametrize("text", ["/t.lance@3", "/t.lance@3/", "s3://lake", "s3://lake/"])
def test_tables_that_cannot_be_written(text: str) -> None:
    """A version is read-only; a whole bucket has no folder for jobs and quarantine."""
    with pytest.raises(UsageError):
        table_to_write(text)


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert normalise("t.lance") == str(tmp_path / "t.lance")
    assert join("s3://lake/a/", "/b/", "c") == "s3://lake/a/b/c"


def test_options_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store:9000")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    options = storage_options("s3://lake/t") or {}
    assert (options["aws_endpoint"], options["allow_http"]) == ("http://store:9000", "true")
    assert storage_options("/local") is None


def test_files_of_a_store(store_uri: str) -> None:
    store = ObjectStore(join(store_uri, "files"))
    with pytest.raises(NotFound):
        store.get("a")
    store.delete("a")
    store.put("a", b"1")
    store.put("a", b"22")
    store.put("d/b", b"0123456789")
    assert store.get("a") == b"22"
    assert store.get_range("d/b", 2, 5) == b"234"
    assert list(store.list()) == ["a", "d/b"]
    assert list(store.list("d")) == ["d/b"]
    assert store.exists("a")
    assert not store.put_if_absent("a", b"3")
    store.delete("a")
    assert not store.exists("a")
    assert store.put_if_absent("a", b"3")


def test_of_racing_writers_one_wins(store_uri: str) -> None:
    store = ObjectStore(store_uri)
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: store.put_if_absent("key", str(n).encode()), range(8)))
    assert won.count(True) == 1
    assert store.get("key") == str(won.index(True)).encode()


def test_no_table(store_uri: str) -> None:
    assert not table_exists(join(store_uri, "t.lance"))
    with pytest.raises(NotFound, match=r"t\.lance"):
        open_table(join(store_uri, "t.lance@3"))


def test_a_version_that_is_not_there_names_those_that_are(store_uri: str) -> None:
    uri = join(store_uri, "t.lance")
    for value in range(4):
        mode = "append" if value else "create"
        lance.write_dataset(pa.table({"x": [value]}), uri, mode=mode, storage_options=storage_options(uri))
    with pytest.raises(NotFound, match=r"t\.lance has no version 9; it has 1 to 4$"):
        open_table(TableRef(uri, 9))
    with pytest.raises(NotFound, match="no Lance table"):
        open_table(TableRef(join(store_uri, "absent.lance"), 9))


@pytest.mark.s3
def test_a_store_that_refuses_us_is_not_an_absent_table(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    for uri in (join(s3, "t.lance"), join(s3, "t.lance@3")):
        with pytest.raises(StoreError, match="eoforge doctor") as refused:
            open_table(uri)
        assert ".rs:" not in str(refused.value)
    with pytest.raises(StoreError) as refused:
        ObjectStore(s3).get("a")
    assert "Debug source" not in str(refused.value)


def test_asking_for_what_is_not_there_leaves_nothing(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path / "absent"))
    assert not store.exists("a")
    assert list(store.list()) == []
    store.delete("a")
    assert not (tmp_path / "absent").exists()


def test_a_place_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot make the folder"):
        ObjectStore(str(tmp_path / "file" / "store")).put("a", b"")


def test_no_port_is_given_twice() -> None:
    """Ports of consecutive calls differ."""
    given = [port for _ in range(200) for port in free_ports(5)]
    assert len(set(given)) == 1000


def test_the_s3_server_dies_with_its_owner(tmp_path: Path) -> None:
    """A killed test process leaves no server behind."""
    program = (
        "import sys, time\nfrom eoforge.storage.seaweed import seaweedfs\n"
        "with seaweedfs(sys.argv[1]) as s:\n    print('up', flush=True)\n    time.sleep(600)\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    command = [sys.executable, "-c", program, str(tmp_path)]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "up\n"
    server = psutil.Process(owner.pid).children(recursive=True)
    assert any("weed" in process.name() for process in server)
    owner.kill()
    owner.wait()
    _, alive = psutil.wait_procs(server, timeout=60)
    assert not alive
