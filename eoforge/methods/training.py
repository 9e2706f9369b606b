"""The training loop of every method, on pytorch-lightning: any number of ranks, and exact resume.

Lightning provides devices, precision, DDP and accumulation. The position in the data is kept here: the run is one
stream of (epoch, number, batch), a checkpoint names the next position, and everything else (learning rate, random
numbers, order of patches) is a function of the position. So a run that was killed and resumed makes the same steps as
one that was not; on another number of ranks they are equal up to rounding.
"""

from __future__ import annotations

import logging
import math
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytorch_lightning as pl
import structlog
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, distributed

from eoforge.data.loading.loader import PatchBatch, PatchLoader
from eoforge.errors import EoforgeError
from eoforge.methods.learner import Learner, TrainConfig
from eoforge.methods.run_files import Curve, RunFiles, State
from eoforge.methods.schedule import relative_rate
from eoforge.nn.distributed import World
from eoforge.nn.seeds import derive_seed
from eoforge.progress import Tracker, track


class Slot(NamedTuple):
    """A batch and its position in the run."""

    epoch: int
    number: int
    batch: PatchBatch


class _Stream:
    """The batches of the run from a position to the end, for Lightning a single epoch."""

    def __init__(self, loader: PatchLoader, epochs: int, per_epoch: int, state: State) -> None:
        self.loader, self.epochs, self.per_epoch, self.state = loader, epochs, per_epoch, state

    def __iter__(self) -> Iterator[Slot]:
        first = self.state.number
        for epoch in range(self.state.epoch, self.epochs):
            self.loader.set_epoch(epoch)
            if first:
                # The run's name fixes everything that the loader's state checks except the number of ranks, and a step
                # holds the same patches for any number of ranks: only the position matters.
                self.loader.load_state_dict({**self.loader.state_dict(), "epoch": epoch, "batches": first})
            for number, batch in enumerate(self.loader, start=first):
                if number >= self.per_epoch:
                    break
                yield Slot(epoch, number, batch)
            first = 0


class _Engine(pl.LightningModule):
    """Lightning module of a run: steps, schedule, seeds, validation, checkpoints."""

    def __init__(
        self,
        learner: Learner,
        validation: PatchLoader | None,
        config: TrainConfig,
        per_epoch: int,
        state: State,
        files: RunFiles,
        world: World,
        tracker: Tracker,
    ) -> None:
        super().__init__()
        self.learner = learner
        self.validation, self.config, self.per_epoch = validation, config, per_epoch
        self.run, self.files, self.world, self.tracker = state, files, world, tracker
        self.pending: list[dict[str, Tensor]] = []
        self.clock = time.perf_counter()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        config = self.config
        optimizer = torch.optim.AdamW(
            self.learner.parameter_groups(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=(0.9, config.beta2),
            fused=True,  # on a GPU a few launches per step instead of several per parameter
        )
        if self.run.optimizer is not None:
            optimizer.load_state_dict(self.run.optimizer)
            self.run.optimizer = None  # frees the second copy
        return optimizer

    def transfer_batch_to_device(self, batch: Slot, device: torch.device, dataloader_idx: int) -> Slot:
        return Slot(batch.epoch, batch.number, batch.batch.to(device))

    def on_train_batch_start(self, batch: Slot, batch_idx: int) -> None:
        torch.manual_seed(derive_seed("step", self.config.seed, batch.epoch, batch.number, self.world.rank))
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self._learning_rate(batch) * group.get("scale", 1.0)

    def _learning_rate(self, slot: Slot) -> float:
        config = self.config
        per_epoch = self.per_epoch // config.accumulate
        step = slot.epoch * per_epoch + slot.number // config.accumulate
        warmup = config.warmup_epochs * per_epoch
        return config.learning_rate * relative_rate(step, config.epochs * per_epoch, warmup, config.schedule)

    def training_step(self, batch: Slot, batch_idx: int) -> Tensor:
        terms = self.learner.losses(batch.batch, batch.epoch)
        self.pending.append({name: value.detach() for name, value in terms.items()})
        return terms["loss"]

    def on_train_batch_end(self, outputs: Any, batch: Slot, batch_idx: int) -> None:
        self.tracker.advance()
        done = batch.number + 1
        if done % self.config.accumulate:
            return  # a checkpoint has no partial gradients: a resumed run starts at a whole optimiser step
        step = done // self.config.accumulate
        ended = done == self.per_epoch
        if ended or step % self.config.checkpoint_steps == 0:
            self._record_losses(batch)
            self.run.epoch, self.run.number = (batch.epoch + 1, 0) if ended else (batch.epoch, done)
            if ended:
                self._end_epoch(batch.epoch)
            self._save()

    def _record_losses(self, slot: Slot) -> None:
        """Adds the losses since the last call to the curve, by one transfer from the device instead of one per step."""
        names = list(self.pending[0])
        rows = torch.stack([torch.stack([terms[n].float() for n in names]) for terms in self.pending]).tolist()
        for offset, row in enumerate(rows, start=slot.number + 1 - len(rows)):
            terms = dict(zip(names, row, strict=True))
            if not math.isfinite(terms["loss"]):
                raise EoforgeError(
                    f"training diverged: loss {terms['loss']} in epoch {slot.epoch}, batch {offset}. "
                    "Lower learning_rate or raise warmup_epochs"
                )
            lr = self._learning_rate(slot._replace(number=offset))
            self.run.curve.add_step({"epoch": slot.epoch, "batch": offset, "lr": lr, **terms})
        self.pending.clear()

    def _end_epoch(self, epoch: int) -> None:
        figures: dict[str, float] = {}
        better = True
        if self.validation is not None:
            self.learner.eval()
            with torch.no_grad():
                figures = self.learner.score(self._validation_batches())
            self.learner.train()
            # Ranks may differ by rounding, but all must take the same decision.
            figures["score"] = float(self.trainer.strategy.broadcast(torch.tensor(figures["score"])))
            better = self.run.best_score is None or figures["score"] > self.run.best_score
        self.run.curve.end_epoch(epoch, figures)
        if better:
            self.run.best_score, self.run.best_epoch = figures.get("score"), epoch
            if self.world.rank == 0:
                self.files.save_best(self.learner.state_dict())
        patience = self.config.patience
        if patience is not None and self.validation is not None and epoch - self.run.best_epoch >= patience:
            self.run.stopped = True
            self.trainer.should_stop = True

    def _validation_batches(self) -> Iterator[PatchBatch]:
        assert self.validation is not None
        seen = 0
        for batch in self.validation:
            yield batch.to(self.device)
            seen += len(batch)
            if seen >= self.config.validation_patches:
                return

    def _save(self) -> None:
        now = time.perf_counter()
        self.run.seconds += now - self.clock
        self.clock = now
        if self.world.rank == 0:
            self.files.save(self.run, self.learner.state_dict(), self.trainer.optimizers[0].state_dict())


@dataclass(frozen=True)
class Fitted:
    """Result of :func:`fit`.

    Attributes:
        weights: State of the learner after the best epoch.
        curve: Losses per step and figures per epoch.
        best_epoch: Number of that epoch.
        seconds: Training time over all attempts, without the lost work of killed ones.
        stopped_early: Whether patience ran out.
    """

    weights: dict[str, Tensor]
    curve: Curve
    best_epoch: int
    seconds: float
    stopped_early: bool


def fit(
    learner: Learner,
    training: PatchLoader,
    validation: PatchLoader | None,
    config: TrainConfig,
    files: RunFiles,
    world: World,
    start: tuple[State, dict[str, Tensor] | None],
) -> Fitted:
    """The outcome of training ``learner`` from ``start`` to the end of the schedule.

    Args:
        learner: Its initial weights are equal on all ranks.
        training: Batches of this rank (``batch_size // world.size`` patches each), ``drop_last=True``; they fill at
            least one optimiser step.
        validation: The whole validation split, on every rank; None if there is none.
        config: Settings.
        files: Checkpoints and logs of the run.
        world: Rank and size of the process group.
        start: State and weights of the last checkpoint, or a fresh state and None to keep the learner's weights.

    Raises:
        EoforgeError: The loss became NaN or infinite.
        KeyboardInterrupt: Ctrl-C; a later call continues from the last checkpoint.
    """
    per_epoch = len(training) // config.accumulate * config.accumulate
    state, weights = start
    if weights is not None:
        learner.load_state_dict(weights)
        if world.rank == 0:
            steps = (state.epoch * per_epoch + state.number, config.epochs * per_epoch)
            structlog.get_logger("training").info(f"resumed at step {steps[0]} of {steps[1]}", epoch=state.epoch)
    if state.epoch < config.epochs and not state.stopped:
        left = config.epochs * per_epoch - state.epoch * per_epoch - state.number
        with ExitStack() as stack:
            # Lightning logs hints about its other features, and warns that the stream has no length.
            logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            tracker = stack.enter_context(track("training", left)) if world.rank == 0 else _Silent()
            stack.enter_context(files.tensorboard(state.curve) if world.rank == 0 else ExitStack())
            engine = _Engine(learner, validation, config, per_epoch, state, files, world, tracker)
            stack.enter_context(_keyboard_interrupt())
            _trainer(config, world).fit(engine, _Stream(training, config.epochs, per_epoch, state))
    if world.size > 1:
        distributed.barrier()  # rank 0 may not have written yet what the others read next
    return Fitted(files.best(), state.curve, state.best_epoch, state.seconds, state.stopped)


@contextmanager
def _keyboard_interrupt() -> Iterator[None]:
    """Ctrl-C as ``KeyboardInterrupt``: Lightning ends the process by ``exit(1)`` and ignores further signals."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, before)  # Lightning handles signals in the main thread, so this is it
        raise KeyboardInterrupt from end


class _Silent:
    """Tracker of ranks above 0, which show no progress."""

    def advance(self, steps: int = 1) -> None:
        """Does nothing."""


def _trainer(config: TrainConfig, world: World) -> pl.Trainer:
    cuda = torch.cuda.is_available()
    return pl.Trainer(
        accelerator="gpu" if cuda else "cpu",
        devices=world.local_size,
        num_nodes=world.nodes,
        strategy=DDPStrategy(process_group_backend="nccl" if cuda else "gloo") if world.size > 1 else "auto",
        precision="bf16-mixed" if cuda else "32-true",
        sync_batchnorm=cuda and world.size > 1,
        accumulate_grad_batches=config.accumulate,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
