"""Import of published weights: both orders of channels, the order of classes, and what refuses a wrong order."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import lance
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from eoforge.data.labels import ALPHABETICAL, CLASSES, names_of
from eoforge.data.loading.loader import PatchLoader
from eoforge.data.loading.prepare import Prepare
from eoforge.data.records import record_batch
from eoforge.errors import DataRefused, NotFound, UsageError
from eoforge.methods import get_method
from eoforge.methods.evaluation.run import evaluate
from eoforge.methods.prediction import open_predictor
from eoforge.methods.reben.config import Config
from eoforge.methods.reben.importer import NORMALISATION, ORDERS, PREFIX, import_published
from eoforge.methods.reben.model import build
from eoforge.nn.build import seeded
from eoforge.storage.addresses import TableRef

CONFIG = dataclasses.replace(Config.paper(), backbone="test_resnet", size=64)
CHANNELS = {"s1s2": 12, "s2": 10, "s1": 2}


def published(folder: Path, layout: str, sensors: str = "s1s2", **changes: object) -> tuple[Path, torch.nn.Module]:
    """A folder as on the model hub, and the network that its weights make with channels in our order.

    The weights are written channel by channel and class by class, with loops that share nothing with the importer.
    """
    config = dataclasses.replace(CONFIG, sensors=sensors)
    network = seeded(lambda: build(config), 5).eval()
    state = {name: tensor.clone() for name, tensor in network.model.state_dict().items()}
    ours = [band for names in config.sensor_bands.values() for band in names]
    order = [b for sensor, names in ORDERS[layout].items() if sensor in config.sensor_bands for b in names]
    first = "conv1.0.weight"
    stem = state[first].clone()
    for place, band in enumerate(order):
        state[first][:, place] = stem[:, ours.index(band)]
    for name in ("fc.weight", "fc.bias"):
        rows = state[name].clone()
        for place, label in enumerate(ALPHABETICAL):
            state[name][place] = rows[CLASSES.index(label)]
    folder.mkdir(parents=True)
    settings = {"timm_model_name": "test_resnet", "channels": CHANNELS[sensors], "classes": 19, "image_size": 64}
    (folder / "config.json").write_text(json.dumps({**settings, **changes, "lr": 0.001}))
    save_file({PREFIX + name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    return folder, network


@pytest.fixture(scope="module")
def answered(pairs, tmp_path_factory: pytest.TempPathFactory) -> TableRef:
    """Patches whose labels are what the network of ``published`` says: the right order is right on all of them."""
    folder = tmp_path_factory.mktemp("answered")
    uri = str(folder / "patches.lance")
    _, network = published(folder / "weights", "v0.2.0")
    lance.write_dataset(pa.Table.from_batches([record_batch(pairs)]), str(folder / "plain.lance"))
    (batch,) = PatchLoader(str(folder / "plain.lance"), batch_size=64)
    images = {s: Prepare.of(n, NORMALISATION, 64, "nearest")(batch) for s, n in CONFIG.sensor_bands.items()}
    with torch.no_grad():
        logits = network.predict(images)
    said = logits > logits.median()  # one level for all classes: the ranking of all pairs is then right too
    masks = [sum(1 << i for i, on in enumerate(row) if on) or 1 for row in said.tolist()]
    by_name = dict(zip(batch.patch_id, masks, strict=True))
    told = [
        dataclasses.replace(p, meta=dataclasses.replace(p.meta, labels=tuple(names_of(by_name[p.meta.patch_id]))))
        for p in pairs
    ]
    lance.write_dataset(pa.Table.from_batches([record_batch(told)]), uri)
    return TableRef(uri, 1)


@pytest.mark.parametrize("layout", list(ORDERS))
@pytest.mark.parametrize("sensors", list(CHANNELS))
def test_both_orders_predict_what_the_network_did(tmp_path: Path, layout: str, sensors: str) -> None:
    folder, network = published(tmp_path / f"resnet-{sensors}-{layout}", layout, sensors)
    bundle = import_published(str(folder), str(tmp_path / "runs"), layout)
    images = {sensor: torch.randn(2, CHANNELS[sensor], 64, 64) for sensor in network.sensors}
    again = get_method("reben").classifier(bundle, "cpu")  # type: ignore[attr-defined]  # it classifies
    with torch.no_grad():
        assert torch.allclose(again.predict(images), network.predict(images), atol=1e-6)
    assert bundle.config["bands"] == {s: list(n) for s, n in ORDERS["v0.2.0"].items() if s in network.sensors}
    assert bundle.config["imported"]["layout"] == layout


def test_what_the_folder_says_refuses_the_other_order(tmp_path: Path) -> None:
    folder, _ = published(tmp_path / "resnet50-all-v0.2.0", "v0.2.0")
    with pytest.raises(DataRefused, match=r"says that its weights are v0.2.0.*another order than v0.1.1"):
        import_published(str(folder), str(tmp_path / "runs"), "v0.1.1")
    plain, _ = published(tmp_path / "model", "v0.1.1")
    (plain / "README.md").write_text("# resnet50 for BigEarthNet v2.0\n\nVersion: v0.1.1 of the training scripts.")
    with pytest.raises(DataRefused, match=r"v0\.1\.1"):
        import_published(str(plain), str(tmp_path / "runs"), "v0.2.0")
    assert not (tmp_path / "runs").exists()


def test_without_a_word_on_the_version_labelled_patches_decide(tmp_path: Path, answered: TableRef) -> None:
    for layout, other in (("v0.1.1", "v0.2.0"), ("v0.2.0", "v0.1.1")):
        folder, _ = published(tmp_path / f"model-{layout[3]}", layout)
        with pytest.raises(UsageError, match=r"nothing in .* says the version"):
            import_published(str(folder), str(tmp_path / "runs"), layout)
        with pytest.raises(DataRefused, match=rf"do better .* in the order {layout} than in {other}"):
            import_published(str(folder), str(tmp_path / "runs"), other, answered)
        bundle = import_published(str(folder), str(tmp_path / "runs"), layout, answered)
        assert bundle.metrics["check_map_micro"] > 0.9


def test_an_imported_bundle_is_evaluated_and_predicts(tmp_path: Path, answered: TableRef) -> None:
    folder, _ = published(tmp_path / "test_resnet-all-v0.1.1", "v0.1.1")
    bundle = import_published(str(folder), str(tmp_path / "runs"), "v0.1.1")
    assert evaluate(bundle, answered, device="cpu")["label_map_micro_both"] > 0.9
    assert open_predictor(bundle, "cpu").sensors == ("s1", "s2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 3}, "channels"),
        ({"classes": 43}, "19 classes"),
        ({"timm_model_name": None}, "timm_model_name"),
        ({"channels": 2}, "not those of test_resnet with 2 channels"),
        ({"timm_model_name": "test_convnext"}, "not those of test_convnext"),
    ],
)
def test_folders_of_other_networks_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    folder, _ = published(tmp_path / "x-v0.2.0", "v0.2.0", **changes)
    with pytest.raises(DataRefused, match=message):
        import_published(str(folder), str(tmp_path / "runs"), "v0.2.0")


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no config.json"):
        import_published(str(tmp_path / "v0.2.0"), str(tmp_path / "runs"), "v0.2.0")
    folder, _ = published(tmp_path / "y-v0.2.0", "v0.2.0")
    (folder / "model.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(DataRefused, match="damaged"):
        import_published(str(folder), str(tmp_path / "runs"), "v0.2.0")
    with pytest.raises(UsageError, match="layout must be"):
        import_published(str(folder), str(tmp_path / "runs"), "v0.3.0")
