"""Silo half of secure aggregation: the secrets of each round on disk, and at most one answer per request."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import DamagedObject, DataRefused, UsageError
from eoforge.federated.privacy import secagg
from eoforge.federated.privacy.clipping import l2_norm
from eoforge.federated.run.spec import DEFAULT_FRACTION_BITS, MIN_MASKED_SILOS
from eoforge.storage.tensorfile import Array


class Masking:
    """Secrets of one silo in one round.

    Args:
        folder: Folder of the run.
        run_id: Id of the run.
        number: Number of the round.
        silo: Id of the silo.
    """

    def __init__(self, folder: Path, run_id: str, number: int, silo: str) -> None:
        self._path = folder / f"masking-{number}.json"
        self._run_id, self._number, self._silo = run_id, number, silo

    def keys(self) -> pb.MaskKeys:
        """Public keys of this round, equal at every call; the first call deletes secrets of earlier rounds."""
        kept = self._kept()
        if not kept:
            delete_masks(self._path.parent)
            kept = {
                "share": secagg.new_key().hex(),
                "mask": secagg.new_key().hex(),
                "seed": secrets.token_bytes(secagg.SEED_BYTES).hex(),
            }
            self._keep(kept)
        return pb.MaskKeys(
            share_key=secagg.public_key(bytes.fromhex(kept["share"])),
            mask_key=secagg.public_key(bytes.fromhex(kept["mask"])),
        )

    def shares(self, task: pb.Task) -> pb.SharesAnswer:
        """Encrypted shares of this silo's seed and mask key for every silo of the round, itself included.

        They are equal at every call: each key may encrypt one message only, and with two sets of shares the server
        could choose which silo receives which.

        Raises:
            UsageError: There are too few silos, half of them or fewer would reach the threshold, or shares were made
                for other silos or keys before.
        """
        silos = sorted(task.mask_keys)
        if len(silos) < MIN_MASKED_SILOS:
            raise UsageError(f"{len(silos)} silos agree on masks; a sum of fewer than {MIN_MASKED_SILOS} hides nobody")
        if not len(silos) // 2 < task.threshold <= len(silos):
            raise UsageError(f"a threshold of {task.threshold} out of {len(silos)} silos does not protect them")
        kept = self._required()
        agreed = {"silos": silos, "threshold": task.threshold, "keys": _hex(task.mask_keys)}
        if "shares" in kept:
            if any(kept[name] != value for name, value in agreed.items()):
                raise UsageError("shares of this round were made for other silos; no second ones are made")
            return pb.SharesAnswer.FromString(bytes.fromhex(kept["shares"]))
        seeds = secagg.split(bytes.fromhex(kept["seed"]), len(silos), task.threshold)
        keys = secagg.split(bytes.fromhex(kept["mask"]), len(silos), task.threshold)
        answer = pb.SharesAnswer()
        for recipient, seed, key in zip(silos, seeds, keys, strict=True):
            data = secagg.seal_share(
                bytes.fromhex(kept["share"]),
                task.mask_keys[recipient].share_key,
                self._context(self._silo, recipient),
                seed + key,
            )
            answer.shares.append(pb.EncryptedShare(sender=self._silo, recipient=recipient, data=data))
        self._keep({**kept, **agreed, "shares": answer.SerializeToString().hex()})  # before any share is sent
        return answer

    def mask(self, tensors: Mapping[str, Array], task: pb.Task, share: float) -> dict[str, Array]:
        """Update as masked fixed-point numbers, clipped to the run's bound before.

        Raises:
            DataRefused: The update holds NaN or infinity.
            UsageError: The sum could wrap around, or the silos are not those that hold shares of this silo's masks.
        """
        kept, bits = self._required(), task.privacy.fraction_bits or DEFAULT_FRACTION_BITS
        given = _hex(task.mask_keys)
        if not given.items() <= kept.get("keys", {}).items() or len(given) < _threshold(kept):
            raise UsageError("the silos to mask with are not those that agreed on masks; nothing is sent")
        bound = update_bound(task.privacy, task.data)
        secagg.check_headroom(bound, share, len(task.mask_keys), bits)
        norm = l2_norm(tensors)
        if not np.isfinite(norm):
            raise DataRefused("the trained update holds NaN or infinity; lower the learning rate")
        factor = min(1.0, bound / norm) if norm else 1.0
        if task.privacy.dp == pb.DP_MODE_SILO:
            # The update was clipped before noise was added. Noise in many elements has a large norm: another clipping
            # by norm would shrink update and noise to nothing. Single elements beyond the bound are clipped instead.
            factor, tensors = 1.0, {name: array.clip(-bound, bound) for name, array in tensors.items()}
        masks = [secagg.Mask(bytes.fromhex(kept["seed"]), +1)]
        private = bytes.fromhex(kept["mask"])
        for other, keys in sorted(task.mask_keys.items()):
            if other != self._silo:
                seed = secagg.pair_seed(private, keys.mask_key, self._run_id, self._number)
                masks.append(secagg.Mask(seed, 1 if self._silo < other else -1))
        return {
            name: secagg.masked(name, secagg.encode(array.reshape(-1), share * factor, bits), masks).reshape(
                array.shape
            )
            for name, array in tensors.items()
        }

    def unmask(self, task: pb.Task) -> pb.UnmaskAnswer:
        """Shares of the seeds of survivors and of the mask keys of dropped silos.

        Raises:
            UsageError: Shares were revealed for another set of survivors, or the set is too small: both would expose
                single updates to the server.
        """
        kept = self._required()
        survivors = sorted(task.survivors)
        if kept.get("survivors", survivors) != survivors:
            raise UsageError("shares of this round were revealed for other survivors; nothing more is revealed")
        needed = _threshold(kept)
        if len(survivors) < needed or not set(survivors) <= set(kept["silos"]):
            raise UsageError(f"{len(survivors)} survivors do not reach the threshold of {needed}")
        kept["survivors"] = survivors
        self._keep(kept)  # before a share is revealed
        answer = pb.UnmaskAnswer()
        for given in task.shares:
            if given.sender not in kept["silos"] or given.recipient != self._silo:
                continue
            public = task.mask_keys[given.sender].share_key
            context = self._context(given.sender, self._silo)
            opened = secagg.open_share(bytes.fromhex(kept["share"]), public, context, given.data)
            seed, key = opened[: secagg.SHARE_BYTES], opened[secagg.SHARE_BYTES :]
            revealed = seed if given.sender in survivors else key
            answer.shares.append(pb.RevealedShare(owner=given.sender, share=revealed))
        return answer

    def _context(self, sender: str, recipient: str) -> str:
        return f"share/{self._run_id}/{self._number}/{sender}/{recipient}"

    def _kept(self) -> dict[str, Any]:
        if not self._path.exists():
            return {}
        try:
            return dict(json.loads(self._path.read_text()))
        except (ValueError, TypeError, RecursionError) as error:
            raise DamagedObject(f"{self._path} holds no secrets of a round: {error}") from error

    def _required(self) -> dict[str, Any]:
        kept = self._kept()
        if not kept:
            raise UsageError(f"this silo has no secrets for round {self._number}; it cannot take part in it")
        return kept

    def _keep(self, kept: Mapping[str, Any]) -> None:
        partial = self._path.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(kept, file)
        flush(partial)  # after a power cut the silo must give the same answers again
        os.replace(partial, self._path)
        flush(self._path.parent)


def flush(path: Path) -> None:
    """Flush of a file, or of the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def delete_masks(folder: Path) -> None:
    """Deletion of the secrets of all rounds of a run, which together with stored masked updates would expose them."""
    for path in folder.glob("masking-*.json"):
        path.unlink()


def _threshold(kept: Mapping[str, Any]) -> int:
    """Least number of silos in a sum: the threshold, and at least ``MIN_MASKED_SILOS``."""
    return max(kept.get("threshold", 0), MIN_MASKED_SILOS)


def update_bound(privacy: pb.PrivacyPolicy, data: pb.DataContract) -> float:
    """Largest absolute value of an element of an update before masking; without noise also the largest L2 norm.

    Noise for differential privacy comes on top of the clip norm: ten standard deviations leave room for it.
    """
    if privacy.dp == pb.DP_MODE_SILO:
        return 10 * privacy.clip_norm * max(1.0, privacy.noise_multiplier)
    return data.max_update_norm


def _hex(keys: Mapping[str, pb.MaskKeys]) -> dict[str, str]:
    return {silo: (key.share_key + key.mask_key).hex() for silo, key in sorted(keys.items())}
