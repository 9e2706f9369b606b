"""Interfaces of a method, by task, and the check of a method object against them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from eoforge.config import PRESETS

if TYPE_CHECKING:
    from torch import Tensor

    from eoforge.bundle import Bundle
    from eoforge.index.encoder import Encoder
    from eoforge.index.predictor import ValuePredictor
    from eoforge.nn.classifier import Network
    from eoforge.storage.addresses import TableRef


class Task(StrEnum):
    """A task that a bundle can do."""

    ENCODE = "encode"
    """Patches to binary codes and embeddings: indexing and retrieval."""
    CLASSIFY = "classify"
    """Patches to multi-label predictions."""
    SEGMENT = "segment"
    """Patches to a class per pixel."""
    REGRESS = "regress"
    """Patches to numbers."""
    COMPRESS = "compress"
    """Patches to streams and back."""


class Method(Protocol):
    """Interface of a method for the command line, the pipelines and the services."""

    name: str
    config_type: type[Any]

    def config(self, preset: str, overrides: Mapping[str, str], file: str | None = None) -> Any:
        """The preset's config, changed by the values of ``file`` and then by ``overrides``.

        Raises:
            UsageError: The preset or a key is unknown, or a value has the wrong type or range.
        """

    def train(self, data: TableRef, out: str, config: Any, *, resume: bool = True) -> Bundle:
        """Training from a table to a bundle below ``out``, with checkpoints below ``out/checkpoints``.

        Args:
            data: Patches table; without a version the newest is taken and recorded.
            out: Folder or ``s3://`` prefix of runs.
            config: From :meth:`config`.
            resume: Whether to continue from the last checkpoint of the same run (a finished run returns its
                bundle); False deletes the checkpoints first.
        """

    def load(self, bundle: Bundle, device: str | None = None) -> Encoder:
        """The trained model of ``bundle``, ready to encode.

        Raises:
            BundleError: The bundle is of another method, or its weights, bands or shapes do not fit.
        """

    def untrained(self, bundle: Bundle, seed: int | None = None, device: str | None = None) -> Encoder:
        """The network of ``bundle`` (bands, normalisation, bits) with initial weights: the baseline of an evaluation.

        Args:
            bundle: Its config describes the network; its weights are not read.
            seed: Of the weights; the bundle's own seed if None.
            device: As for :meth:`load`.

        Raises:
            BundleError: As :meth:`load`.
        """


class Classifies(Protocol):
    """Interface of a method whose bundles classify (:attr:`Task.CLASSIFY`).

    Its settings have the field ``size``, the side of the network's input.
    """

    def classifier(self, bundle: Bundle, device: str | None = None) -> Network:
        """The trained classifier of ``bundle``, in evaluation mode.

        Raises:
            BundleError: As :meth:`Method.load`.
        """


class MapNetwork(Protocol):
    """Network from images of sensors to a class per pixel; ``sensors`` are read together."""

    sensors: tuple[str, ...]

    def predict(self, images: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[B, L, S, S]`` from images by sensor, ``[B, C, S, S]`` each."""


class Segments(Protocol):
    """Interface of a method whose bundles map pixels (:attr:`Task.SEGMENT`); its settings have the field ``size``."""

    def segmenter(self, bundle: Bundle, device: str | None = None) -> MapNetwork:
        """The trained network of ``bundle``, in evaluation mode.

        Raises:
            BundleError: As :meth:`Method.load`.
        """


class Regresses(Protocol):
    """Interface of a method whose bundles predict a number per patch (:attr:`Task.REGRESS`).

    Its settings describe the target (``described_target``) and where its values are.
    """

    def regressor(self, bundle: Bundle, device: str | None = None) -> ValuePredictor:
        """The trained predictor of ``bundle``, in evaluation mode.

        Raises:
            BundleError: As :meth:`Method.load`.
        """

    def truth(self, bundle: Bundle, data: TableRef, split: str) -> dict[str, float]:
        """Patch id -> value of the target of ``bundle``, of the patches of a split that have one.

        Raises:
            NotFound: The file of values does not exist any more.
            DataRefused: It is another file, or a value is refused.
        """


class Compresses(Protocol):
    """Interface of a method whose bundles compress (:attr:`Task.COMPRESS`)."""

    def evaluate_codec(
        self, bundle: Bundle, data: TableRef, out: str | None, device: str | None = None
    ) -> dict[str, Any]:
        """Headline figures of the codec of ``bundle``, flat; with ``out`` also a report in files there.

        Raises:
            BundleError: As :meth:`Method.load`.
        """


_NEEDS: dict[Task | None, tuple[Callable[..., Any], ...]] = {
    None: (Method.config, Method.train),
    Task.ENCODE: (Method.load, Method.untrained),
    Task.CLASSIFY: (Classifies.classifier,),
    Task.SEGMENT: (Segments.segmenter,),
    Task.REGRESS: (Regresses.regressor, Regresses.truth),
    Task.COMPRESS: (Compresses.evaluate_codec,),
}
"""Functions that a method object must offer for a task; for None whatever its tasks are."""


def problems(name: str, tasks: Sequence[Task], method: object) -> list[str]:
    """Differences between a method object and the interfaces of its tasks, as sentences; empty if it fits.

    Args:
        name: Name under which it is registered.
        tasks: Tasks that it is registered for.
        method: The object.
    """
    own = getattr(method, "name", None)
    found = [] if own == name else [f"its name is {own!r}"]
    found += _settings_problems(getattr(method, "config_type", None), Task.CLASSIFY in tasks)
    for task in (None, *tasks):
        for needed in _NEEDS.get(task, ()):
            found += _function_problems(method, needed, "every method" if task is None else f"task {task}")
    return found


def _settings_problems(kind: Any, sized: bool) -> Iterator[str]:
    if not (isinstance(kind, type) and is_dataclass(kind)):
        yield f"config_type must be its dataclass of settings; got {kind!r}"
        return
    if not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]  # it has no public name
        yield f"{kind.__name__} must be frozen"
    for preset in PRESETS:
        if not callable(getattr(kind, preset, None)):
            yield f"{kind.__name__} lacks the preset {preset}()"
    if sized and "size" not in {field.name for field in fields(kind)}:
        yield f"{kind.__name__} lacks size, the side of the classifier's input"


def _function_problems(method: object, needed: Callable[..., Any], by: str) -> Iterator[str]:
    function = getattr(method, needed.__name__, None)
    wanted = list(inspect.signature(needed).parameters.values())[1:]
    signature = f"{needed.__name__}({', '.join(parameter.name for parameter in wanted)})"
    if not callable(function):
        yield f"{by} needs {signature}, which it lacks"
        return
    try:
        positional = [0 for p in wanted if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        named = {p.name: 0 for p in wanted if p.kind is inspect.Parameter.KEYWORD_ONLY}
        inspect.signature(function).bind(*positional, **named)
    except TypeError as error:
        yield f"{by} calls {signature}, which it does not take: {error}"
