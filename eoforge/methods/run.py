"""A training run from a table to a bundle, common to all methods that train in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import structlog
import torch
from torch import distributed, nn

from eoforge.bundle import Bundle, code_revision, load_bundle, model_card, write_bundle
from eoforge.data.loading.loader import PatchBatch, PatchFilter, PatchLoader
from eoforge.data.tables.statistics import band_statistics
from eoforge.errors import NotFound, UsageError
from eoforge.methods.learner import Learner, TrainConfig
from eoforge.methods.run_files import CURVE, RunFiles, State, run_name
from eoforge.nn.distributed import World
from eoforge.progress import track
from eoforge.report import markdown_code
from eoforge.storage.addresses import TableRef, normalise, open_table

if TYPE_CHECKING:
    from eoforge.methods.training import Fitted

Normalisation = dict[str, tuple[float, float]]
"""Band -> (mean, standard deviation)."""


@dataclass(frozen=True)
class Recipe:
    """A method's part of a training run.

    Attributes:
        method: Name of the method.
        bands: Per modality, in channel order.
        learner: Builds the learner, with initial weights that depend on the seed only.
        network: The part of the learner whose weights go into the bundle.
        facts: Further keys of ``config.json`` (bits, embedding length, interpolation, ...).
        card: First paragraph of the model card, in Markdown: what the model is and what it is for.
        training_loader: Loader of the training batches, with the signature of :class:`PatchLoader`.
        validation_loader: Loader of the batches that are scored after each epoch, with the same signature; None scores
            nothing and keeps the last epoch.
        measured_on: What the model card says these are.
        read: What both loaders read, as arguments of :class:`PatchLoader`: ``modalities``,
            ``reference_map``, ``labelled``.
        calibrate: Further keys of ``config.json`` from the trained learner and batches of the validation split.
    """

    method: str
    bands: Mapping[str, tuple[str, ...]]
    learner: Callable[[Normalisation], Learner]
    network: Callable[[Learner], nn.Module]
    facts: Callable[[Learner], dict[str, Any]]
    card: str
    training_loader: Callable[..., PatchLoader] = PatchLoader
    validation_loader: Callable[..., PatchLoader] | None = PatchLoader
    measured_on: str = "the `validation` split of the same table version"
    read: Mapping[str, Any] = field(default_factory=dict)
    calibrate: Callable[[Learner, Iterable[PatchBatch]], dict[str, Any]] | None = None


def train_run(recipe: Recipe, data: TableRef, out: str, config: TrainConfig, *, resume: bool = True) -> Bundle:
    """The bundle of a training run, which continues from its last checkpoint; a finished run returns its bundle.

    Under ``torchrun`` every rank calls this and gets the same bundle; ``out`` must be the same place for all ranks.

    Raises:
        NotFound: There is no such table or version.
        UsageError: The batch size is no multiple of the ranks, or the training split is too small.
    """
    world = World.from_env()
    if config.batch_size % world.size:
        raise UsageError(f"batch_size must be a multiple of the {world.size} ranks; got {config.batch_size}")
    with _process_group(world):
        data = _pinned(data, world)
        files = RunFiles(normalise(out), run_name(recipe.method, asdict(config), data))
        if resume and (bundle := _finished(files)) is not None:
            if world.rank == 0:
                structlog.get_logger("training").info("already trained", method=recipe.method, bundle=bundle.uri)
            return bundle
        require_patches(data, config)
        if not resume and world.rank == 0:
            files.clear()
        start = files.resume() if resume else (State(), None)

        from eoforge.methods.training import fit  # imports Lightning, which takes seconds; a wrong call fails before

        names = [band for group in recipe.bands.values() for band in group]
        with track(f"preparing {recipe.method}: statistics of the bands") if world.rank == 0 else nullcontext():
            normalisation: Normalisation = band_statistics(data).normalisation(names)
        learner = recipe.learner(normalisation)
        training, validation = _loaders(recipe, data, config, world)
        fitted = fit(learner, training, validation, config, files, world, start)
        if world.rank == 0:
            learner.load_state_dict(fitted.weights)
            facts = recipe.facts(learner)
            if recipe.calibrate is not None and validation is not None:
                facts |= recipe.calibrate(learner, validation)
            bundle = _write(recipe, learner, facts, fitted, normalisation, data, out, config, world)
            files.finish(bundle.uri)
        _barrier(world)
        found = _finished(files)
    if found is None:
        raise NotFound(
            f"rank {world.rank} does not find the bundle that rank 0 wrote; {out} must be the same place for all ranks"
        )
    return found


def require_patches(data: TableRef, *stages: TrainConfig) -> None:
    """Check that the training split fills one optimiser step of every stage, by a count of rows alone.

    A method of several stages calls it for all of them before the first.

    Raises:
        NotFound: There is no such table or version.
        UsageError: The split is too small.
    """
    rows = open_table(data).count_rows("split = 'train'")
    for stage in stages:
        if rows < (needed := stage.accumulate * stage.batch_size):
            raise UsageError(
                f"one optimiser step takes {needed} patches (batch_size x accumulate); the training split of {data} "
                f"has {rows}. Choose a smaller {stage.batch_setting}, or ingest more"
            )


def _finished(files: RunFiles) -> Bundle | None:
    uri = files.finished()
    if uri is None:
        return None
    try:
        return load_bundle(uri)
    except NotFound:
        return None  # deleted after the run: train again


def _loaders(
    recipe: Recipe, data: TableRef, config: TrainConfig, world: World
) -> tuple[PatchLoader, PatchLoader | None]:
    training = recipe.training_loader(
        data,
        batch_size=config.batch_size // world.size,
        filter=PatchFilter(splits=("train",)),
        shuffle=True,
        seed=config.seed,
        rank=world.rank,
        world_size=world.size,
        workers=config.workers,
        drop_last=True,
        **recipe.read,
    )
    if recipe.validation_loader is None:
        return training, None
    # Every rank scores the same patches: this needs no exchange between ranks.
    try:
        validation = recipe.validation_loader(
            data, batch_size=config.batch_size, filter=PatchFilter(splits=("validation",)), **recipe.read
        )
    except NotFound:
        return training, None  # a small table may have no such patches; the last epoch is the best one then
    return training, validation


def _write(
    recipe: Recipe,
    learner: Learner,
    facts: Mapping[str, Any],
    fitted: Fitted,
    normalisation: Normalisation,
    data: TableRef,
    out: str,
    config: TrainConfig,
    world: World,
) -> Bundle:
    described = {
        "method": recipe.method,
        "config": asdict(config),
        "bands": {modality: list(names) for modality, names in recipe.bands.items()},
        "normalisation": {band: list(values) for band, values in normalisation.items()},
        "seed": config.seed,
        "patches": {"uri": data.uri, "version": data.version},
        "code_revision": code_revision(),
        **facts,
    }
    best = next(row for row in fitted.curve.epochs if row["epoch"] == fitted.best_epoch)
    metrics = {
        "loss": best["loss"],
        "best_epoch": fitted.best_epoch,
        "stopped_early": fitted.stopped_early,
        "training_seconds": fitted.seconds,
        "steps": len(fitted.curve.steps),
        "ranks": world.size,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        **{name: value for name, value in best.items() if name.startswith("validation_")},
        "history": fitted.curve.epochs,
    }
    weights = recipe.network(learner).state_dict()
    readme = model_card(
        recipe.method,
        recipe.card,
        trained_on=f"the `train` split of {markdown_code(data.uri)} at version {data.version}",
        bands=recipe.bands,
        measured=f"Of the best epoch; `validation_...` on {recipe.measured_on}.",
        figures=metrics,
        settings=asdict(config),
    )
    extra = {CURVE: fitted.curve.csv()}
    return write_bundle(out, weights=weights, config=described, metrics=metrics, readme=readme, extra_files=extra)


@contextmanager
def _process_group(world: World) -> Iterator[None]:
    """A process group of all ranks while the block runs; Lightning uses it."""
    if world.size == 1 or distributed.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(world.local_rank)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _pinned(data: TableRef, world: World) -> TableRef:
    """``data`` at a version that is equal on all ranks, even if the table grows while they start."""
    version = torch.tensor(data.pinned().version)
    if world.size > 1:
        distributed.broadcast(version, src=0)
    return TableRef(data.uri, int(version))


def _barrier(world: World) -> None:
    if world.size > 1:
        distributed.barrier()
