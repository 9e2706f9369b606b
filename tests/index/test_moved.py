"""Stores that were copied, moved or restored: codes name the bundle and the patches that lie beside them."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from eoforge.bundle import load_bundle, training_patches
from eoforge.cli.root import app
from eoforge.errors import BundleError, DataRefused, NotFound
from eoforge.index.build import build_index
from eoforge.index.catalog import IndexSnapshot
from eoforge.index.code_table import BUNDLE_URI, PATCHES_ID, PATCHES_URI, CodeTableInfo
from eoforge.index.jobs import rebase
from eoforge.storage.addresses import TableRef, join, open_table, relative_to, resolve
from eoforge.storage.objects import ObjectStore
from tests.index.conftest import PixelEncoder, changed, make_bundle, write_patches


def copy_store(source, target):
    """A copy object by object, as of a bucket that is restored under another name."""
    here, there = ObjectStore(source), ObjectStore(target)
    for key in here.list():
        there.put(key, here.get(key))


def delete_store(root):
    store = ObjectStore(root)
    for key in list(store.list()):
        store.delete(key)


@pytest.fixture
def indexed(archive, store_uri, encoder):
    """(codes uri, patches uri, bundle) of a whole store."""
    codes = join(store_uri, "codes.lance")
    build_index(archive[1].uri, TableRef(archive[0]), codes, encoder)
    return codes, *archive


def test_a_restored_store_is_read_without_the_old_one(indexed, store_uri):
    codes, _, bundle = indexed
    before = IndexSnapshot.open(TableRef(codes)).metadata()
    restored = store_uri + "-restored"
    copy_store(store_uri, restored)
    delete_store(store_uri)

    codes = join(restored, "codes.lance")
    after = IndexSnapshot.open(TableRef(codes))
    assert after.metadata().equals(before)
    assert after.info.patches.uri == join(restored, "patches.lance")
    assert after.info.open_bundle().id == bundle.id
    moved = load_bundle(bundle.uri.replace(store_uri, restored))
    assert training_patches(moved).uri == join(restored, "patches.lance")

    again = PixelEncoder()
    build_index(moved.uri, TableRef(join(restored, "patches.lance")), codes, again)
    assert again.encoded == []


def test_a_copy_without_patches_does_not_read_the_original(indexed, store_uri):
    copied = store_uri + "-copied"
    copy_store(store_uri, copied)
    delete_store(join(copied, "patches.lance"))
    with pytest.raises(NotFound, match="--rebase"):
        IndexSnapshot.open(TableRef(join(copied, "codes.lance")))


def test_other_patches_at_the_address_are_refused(indexed, store_uri, pairs):
    codes, patches, bundle = indexed
    delete_store(patches)
    write_patches(patches, pairs)
    assert open_table(patches).version == bundle.config["patches"]["version"]
    with pytest.raises(DataRefused, match="another table"):
        IndexSnapshot.open(TableRef(codes))
    with pytest.raises(DataRefused, match="another table"):
        training_patches(bundle)


def test_rebase_names_new_places_after_a_check(indexed, store_uri, pairs):
    codes, patches, bundle = indexed
    elsewhere = store_uri + "-elsewhere"
    copy_store(patches, join(elsewhere, "a", "patches.lance"))
    copy_store(bundle.uri, join(elsewhere, "b", "bundle"))
    other = make_bundle(join(elsewhere, "b"), patches, open_table(patches).version, seed=1)
    with pytest.raises(BundleError, match="made with bundle"):
        rebase(other.uri, TableRef(patches), codes)
    write_patches(join(elsewhere, "c", "patches.lance"), [changed(pair) for pair in pairs])
    with pytest.raises(DataRefused, match="another table"):
        rebase(bundle.uri, TableRef(join(elsewhere, "c", "patches.lance")), codes)

    run = ["index", join(elsewhere, "b", "bundle"), join(elsewhere, "a", "patches.lance"), codes, "--rebase", "--json"]
    result = CliRunner().invoke(app, run)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["patches"].startswith(join(elsewhere, "a", "patches.lance"))
    delete_store(patches)
    delete_store(bundle.uri)
    info = IndexSnapshot.open(TableRef(codes)).info
    assert info.open_bundle().uri == join(elsewhere, "b", "bundle")


def test_codes_of_older_releases_are_rebased_by_their_pixels(indexed, store_uri, pairs):
    codes, patches, bundle = indexed
    open_table(codes).update_schema_metadata({BUNDLE_URI: bundle.uri, PATCHES_URI: patches, PATCHES_ID: None})
    assert CodeTableInfo.of(open_table(codes).schema, codes).patches_id == ""
    copied = store_uri + "-copied"
    copy_store(store_uri, copied)
    write_patches(join(copied, "other.lance"), [changed(pair) for pair in pairs])
    new_codes, new_bundle = join(copied, "codes.lance"), bundle.uri.replace(store_uri, copied)
    with pytest.raises(DataRefused, match=f"{len(pairs)} of {len(pairs)} have no code of the same pixels"):
        rebase(new_bundle, TableRef(join(copied, "other.lance")), new_codes)
    rebase(new_bundle, TableRef(join(copied, "patches.lance")), new_codes)
    delete_store(store_uri)
    assert len(IndexSnapshot.open(TableRef(new_codes))) == len(pairs)


@pytest.mark.parametrize(
    ("uri", "base", "relative"),
    [
        ("s3://b/patches.lance", "s3://b/codes.lance", "../patches.lance"),
        ("s3://b/a 1/x#?.lance", "s3://b/i/codes.lance", "../../a 1/x#?.lance"),
        ("/data/patches.lance", "/data/index/codes.lance", "../../patches.lance"),
        ("s3://b/patches.lance", "s3://c/codes.lance", "s3://b/patches.lance"),
        ("/data/patches.lance", "/home/codes.lance", "/data/patches.lance"),
        ("/data/patches.lance", "s3://b/codes.lance", "/data/patches.lance"),
    ],
)
def test_relative_addresses_lead_back(uri, base, relative):
    assert relative_to(uri, base) == relative
    assert resolve(relative, base) == uri
