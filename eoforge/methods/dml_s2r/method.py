"""The method object of DML-S2R and its baselines: training on images, and loading of bundles that predict a value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any, cast

import torch

from eoforge.bundle import Bundle
from eoforge.data.loading.batch import PatchFilter
from eoforge.data.loading.loader import PatchBatch, PatchLoader
from eoforge.data.target_file import file_digest
from eoforge.data.targets import patches_of, read_file, read_target
from eoforge.methods import Task, encoding
from eoforge.methods.base import ConfiguredMethod
from eoforge.methods.dml_s2r.config import Config
from eoforge.methods.dml_s2r.inference import build
from eoforge.methods.dml_s2r.labels import SCORED, ChosenLoader, Labelled, MixedLoader, labelled_patches
from eoforge.methods.dml_s2r.learner import RegressionLearner
from eoforge.methods.dml_s2r.model import stacked
from eoforge.methods.learner import Learner
from eoforge.methods.run import Recipe, train_run
from eoforge.methods.value_prediction import BundleValuePredictor, ValueRule
from eoforge.metrics.regression import least_held
from eoforge.nn.build import choose_device
from eoforge.nn.seeds import derive_seed
from eoforge.storage.addresses import TableRef, normalise

_TRAIN = PatchFilter(splits=("train",))


class DmlS2rMethod(ConfiguredMethod):
    """See :class:`eoforge.methods.Regresses`; its bundles have no codes."""

    name = "dml_s2r"
    config_type = Config

    def train(self, data: TableRef, out: str, config: Any, *, resume: bool = True) -> Bundle:
        self.require_own(config)
        data = data.pinned()
        if config.labels_file:
            config = replace(
                config,
                labels_file=normalise(config.labels_file),
                labels_digest=config.labels_digest or file_digest(config.labels_file),
            )
        labelled = labelled_patches(data, config)
        read = {"modalities": tuple(config.sensor_bands)}
        every = partial(_chosen, list(labelled.patches))
        recipe = Recipe(
            method=self.name,
            bands=config.sensor_bands,
            learner=lambda normalisation: RegressionLearner(config, normalisation, labelled),
            network=lambda learner: cast("RegressionLearner", learner).networks.inference,
            facts=lambda learner: _facts(config, labelled, learner, data, read),
            card=_card(config, labelled),
            training_loader=partial(MixedLoader, chosen=labelled.trained(), config=config),
            validation_loader=every if labelled.facts["scored"] >= SCORED else None,
            measured_on="labelled patches of the `train` split, each by a network that did not see its label",
            read=read,
        )
        return train_run(recipe, data, out, config, resume=resume)

    def regressor(self, bundle: Bundle, device: str | None = None) -> BundleValuePredictor:
        """See :class:`eoforge.methods.Regresses`."""
        encoding.require_method(bundle, self.name)
        config = encoding.settings_of(bundle, Config, self.name)
        encoding.require_facts(bundle, {"interpolation": config.interpolation})
        bands = encoding.bands_of(bundle, config.sensor_bands)
        rule = ValueRule.of(bundle)
        inference = build(config)
        encoding.load_weights(inference, bundle)
        where = choose_device(device)
        prepare = {s: p.to(where) for s, p in encoding.prepares(bundle, bands, config.size).items()}
        ready = inference.to(where).eval()

        def estimate(images: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            found = ready.decide(ready.encode(stacked(images, tuple(bands))))
            return found.value, found.spread

        return BundleValuePredictor(estimate, rule, prepare, where)

    def truth(self, bundle: Bundle, data: TableRef, split: str) -> dict[str, float]:
        """See :class:`eoforge.methods.Regresses`."""
        config = encoding.settings_of(bundle, Config, self.name)
        target = config.described_target()
        if not config.labels_file:
            return read_target(data, target, patches_of(data, split)).values
        skip = config.unknown_ids == "skip"
        digest = config.labels_digest
        return read_file(data, target, config.labels_file, split, digest=digest, skip_unknown=skip).values


def _chosen(names: list[str], data: TableRef, **arguments: Any) -> PatchLoader:
    """Loader of labelled patches of the training split, whatever split the trainer asks for."""
    return ChosenLoader(data, **{**arguments, "filter": _TRAIN}, chosen=names)


def _facts(
    config: Config, labelled: Labelled, learner: Learner, data: TableRef, read: dict[str, Any]
) -> dict[str, Any]:
    """Entries of ``config.json``: intervals, target, counts of labels; the inference gets its references here."""
    trained = cast("RegressionLearner", learner).to(where := choose_device(None)).eval()

    def batches(names: list[str]) -> Iterator[PatchBatch]:
        for batch in _chosen(names, data, batch_size=config.batch_size, **read):
            yield batch.to(where)

    networks, pool = trained.networks, None
    if wanted := networks.inference.pool:
        others = list(set(patches_of(data, "train")) - set(labelled.patches))
        others = sorted(others, key=lambda name: derive_seed("pool", config.seed, name))[:wanted]
        pool = trained.encoded(batches(others))[0] if others else None
    intervals = networks.finish(*trained.encoded(batches(list(labelled.patches))), pool)
    learner.cpu()
    target, (mean, deviation) = config.described_target(), labelled.scale(labelled.left_out[0])
    return {
        "tasks": [Task.REGRESS.value],
        "interpolation": config.interpolation,
        "labels": labelled.facts,
        "values": {
            **{key: value for key, value in asdict(target).items() if key != "policy"},
            "mean": mean,
            "deviation": deviation,
            "intervals": asdict(intervals),
        },
    }


def _card(config: Config, labelled: Labelled) -> str:
    target = config.described_target()
    unit = f" ({target.unit})" if target.unit else ""
    scored = labelled.facts["scored"]
    folds = labelled.facts["folds"]
    by = f"{folds} networks that each left out a fold of them" if folds else f"{scored} held-out patches"
    few = "" if scored >= (least := least_held(config.level)) else f", too few: {least} would need no assumption"
    return (
        f"A number per patch with an interval: `{target.name}`{unit}, by {config.system}, from "
        f"{len(labelled.trained())} labelled patches. Intervals should hold {config.level:.0%} of the truth; the "
        f"errors of {by} calibrate them{few}."
    )


METHOD = DmlS2rMethod()
