"""The method object of RS-JCIF: training of the codec, joint training of codec and hash module, loading."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, cast

from eoforge.bundle import Bundle, load_bundle, training_patches
from eoforge.codec.learned.model import Codec
from eoforge.data.loading.loader import PatchFilter, PatchLoader
from eoforge.errors import BundleError
from eoforge.index.encoder import Encoder
from eoforge.methods import encoding, get_method
from eoforge.methods.base import ConfiguredMethod
from eoforge.methods.rs_jcif.config import Compression, Config, Tasks
from eoforge.methods.rs_jcif.evaluate import evaluate_codec
from eoforge.methods.rs_jcif.learner import CompressionLearner, JointLearner, Teacher
from eoforge.methods.rs_jcif.model import LatentEncoder
from eoforge.methods.run import Normalisation, Recipe, require_patches, train_run
from eoforge.nn.build import choose_device
from eoforge.storage.addresses import TableRef, join

COMPRESSION = "rs_jcif-compression"
_START_PATCHES = 128
_CARD = (
    "Joint compression and indexing (RS-JCIF): a learned codec for Sentinel-1 and Sentinel-2 patches whose quantised "
    "latent also gives binary codes, so that an archive of streams can be searched without decoding. Codes of both "
    "sensors are comparable by Hamming distance. `compression` in `config.json` names the bundle of the first stage."
)
_COMPRESSION_CARD = (
    "A learned codec for Sentinel-1 and Sentinel-2 patches: the first stage of an `rs_jcif` run. Its hash module is "
    "not trained, so its codes cannot be searched."
)


class RsJcifMethod(ConfiguredMethod):
    """See :class:`eoforge.methods.Method`."""

    name = "rs_jcif"
    config_type = Config

    def train(self, data: TableRef, out: str, config: Any, *, resume: bool = True) -> Bundle:
        self.require_own(config)
        data = data.pinned()
        require_patches(data, config.compression(), config.joint(""))
        return self.join(self.compress_first(data, out, config, resume=resume), out, config, resume=resume)

    def compress_first(self, data: TableRef, out: str, config: Config, *, resume: bool = True) -> Bundle:
        """The bundle of the first stage, the codec alone, below ``out/compression``.

        Runs whose configs differ only in the second stage share this bundle.
        """
        first = config.compression()
        pinned = data.pinned()
        recipe = Recipe(
            method=COMPRESSION,
            bands=first.bands,
            learner=lambda normalisation: CompressionLearner(first, _fresh(first, normalisation, pinned)),
            network=lambda learner: _ready(cast("CompressionLearner", learner).codec),
            facts=lambda _: _facts(first),
            card=_COMPRESSION_CARD,
        )
        return train_run(recipe, pinned, join(out, "compression"), first, resume=resume)

    def join(self, first: Bundle, out: str, config: Config, tasks: Tasks = "both", *, resume: bool = True) -> Bundle:
        """The bundle of the second stage, trained from that of the first.

        Args:
            first: From :meth:`compress_first`.
            out: Folder or ``s3://`` prefix of runs.
            config: Settings of the whole run.
            tasks: "both", or "hash" for codes alone, the baseline of the joint run.
            resume: As for :meth:`train`.
        """
        table = training_patches(first)
        teacher = load_bundle(config.teacher) if config.teacher else None
        origin = first.id if teacher is None else f"{first.id}+{teacher.id}"
        stage = config.joint(origin, tasks)

        def learner(_: Normalisation) -> JointLearner:
            codec = Codec(config.codec(_normalisation(first)))
            codec.load_state_dict(first.weights())
            return JointLearner(stage, codec, _teacher(teacher))

        recipe = Recipe(
            method=self.name,
            bands=config.bands,
            learner=learner,
            network=lambda learner: _ready(cast("JointLearner", learner).codec),
            # The bundle keeps the user's config; the stage's config is internal.
            facts=lambda _: {"config": asdict(config), **_facts(config), "compression": first.id, "tasks": tasks},
            card=_CARD,
            read={"labelled": config.similarity == "labels"},
        )
        return train_run(recipe, table, out, stage, resume=resume)

    def load(self, bundle: Bundle, device: str | None = None) -> Encoder:
        encoding.require_method(bundle, self.name)
        return LatentEncoder(load_codec(bundle, device), _config(bundle).quality, choose_device(device))

    def evaluate_codec(
        self, bundle: Bundle, data: TableRef, out: str | None, device: str | None = None
    ) -> dict[str, Any]:
        return evaluate_codec(bundle, load_codec(bundle, device), data, out)

    def untrained(self, bundle: Bundle, seed: int | None = None, device: str | None = None) -> Encoder:
        encoding.require_method(bundle, self.name)
        config = _config(bundle)
        codec = _empty(bundle, config, seed)
        where = choose_device(device)
        return LatentEncoder(_ready(codec).to(where).eval(), config.quality, where)


def load_codec(bundle: Bundle, device: str | None = None) -> Codec:
    """The codec of a bundle of either stage, ready to compress and to decompress.

    Raises:
        BundleError: The bundle is of another method, or its weights, bands or shapes do not fit.
    """
    if bundle.config.get("method") not in (RsJcifMethod.name, COMPRESSION):
        raise BundleError(f"expected a bundle of a codec; {bundle.uri} is a bundle of {bundle.config.get('method')!r}")
    encoding.require_method(bundle, bundle.config["method"])
    codec = _empty(bundle, _config(bundle), None)
    encoding.load_weights(codec, bundle)
    codec.bundle_id = bundle.id
    return codec.to(choose_device(device)).eval()


def _config(bundle: Bundle) -> Config:
    # A bundle of the first stage holds that stage's settings, a part of Config's fields.
    kind = Config if bundle.config["method"] == RsJcifMethod.name else cast("type[Config]", Compression)
    return encoding.settings_of(bundle, kind, RsJcifMethod.name)


def _empty(bundle: Bundle, config: Compression, seed: int | None) -> Codec:
    """A codec of the bundle's shapes and statistics, with initial weights."""
    encoding.require_facts(bundle, _facts(config))
    encoding.bands_of(bundle, config.bands)
    shape = config.codec(_normalisation(bundle))
    return Codec(shape if seed is None else replace(shape, seed=seed))


def _normalisation(bundle: Bundle) -> Normalisation:
    bands = tuple(band for names in bundle.config["bands"].values() for band in names)
    return dict(zip(bands, zip(*encoding.normalisation(bundle, bands), strict=True), strict=True))


def _fresh(config: Compression, normalisation: Normalisation, table: TableRef) -> Codec:
    """A codec whose initial transforms are the principal components of patches of the training split."""
    codec = Codec(config.codec(normalisation))
    loader = PatchLoader(
        table,
        batch_size=_START_PATCHES,
        modalities=tuple(config.bands),
        filter=PatchFilter(splits=("train",)),
        shuffle=True,
        seed=config.seed,
    )
    codec.initialise(next(iter(loader)))
    return codec


def _ready(codec: Codec) -> Codec:
    """The codec with the integer tables of its trained floats; a bundle holds both."""
    codec.update()
    return codec


def _teacher(bundle: Bundle | None) -> Teacher | None:
    if bundle is None:
        return None
    return cast("Teacher", get_method(bundle.config["method"]).load(bundle))


def _facts(config: Compression) -> dict[str, Any]:
    return {"bits": config.bits, "embedding_dim": config.bits, "interpolation": "native"}


METHOD = RsJcifMethod()
