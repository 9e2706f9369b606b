"""Secure aggregation: masks that hide single updates from the server and cancel in their sum.

After Bonawitz et al., CCS 2017, against an honest-but-curious server. Silo ``i`` sends ::

    y_i = fixed(share_i * u_i) + PRG(b_i) + sum_{j > i} PRG(s_ij) - sum_{j < i} PRG(s_ij)      mod 2^64

where two silos agree on ``s_ij`` by X25519 and ``b_i`` is secret to silo ``i``. In the sum over survivors the pairwise
masks cancel, except those with silos that dropped out. Shamir shares of ``b_i`` and of the mask key are exchanged
before training. With them any ``threshold`` survivors reveal ``b_i`` of each survivor and the mask key of each dropped
silo, and never both for one silo: the set of survivors is therefore final before any share is revealed.

Masks are AES-256-CTR streams, so any slice of any tensor's mask is computed by itself.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from eoforge.errors import DataRefused, UsageError
from eoforge.federated.reduce import Sum, Term
from eoforge.federated.strategy import Source
from eoforge.storage.tensorfile import Array

PRIME = (1 << 521) - 1
"""Field of the shares: a Mersenne prime above every 32-byte secret."""
SHARE_BYTES = 66
SEED_BYTES = KEY_BYTES = 32
WORD_BYTES, BLOCK_BYTES = 8, 16
_NONCE = bytes(12)  # every key encrypts one message

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Mask:
    """Mask in a sum, with its sign."""

    seed: bytes
    sign: int


def split(secret: bytes, count: int, threshold: int) -> list[bytes]:
    """Shamir shares of ``secret`` for holders ``1 .. count``; any ``threshold`` of them give it back."""
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    shares = []
    for x in range(1, count + 1):
        y = 0
        for coefficient in reversed(coefficients):
            y = (y * x + coefficient) % PRIME
        shares.append(y.to_bytes(SHARE_BYTES, "big"))
    return shares


def combine_shares(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Secret of Shamir shares by holder.

    Raises:
        DataRefused: There are fewer than ``threshold`` shares, or they are not of one secret.
    """
    if len(shares) < threshold:
        raise DataRefused(f"{threshold} shares are needed to remove a mask; got {len(shares)}")
    chosen = dict(sorted(shares.items())[:threshold])
    total = 0
    for x, share in chosen.items():
        numerator = denominator = 1
        for other in chosen:
            if other != x:
                numerator = numerator * -other % PRIME
                denominator = denominator * (x - other) % PRIME
        total = (total + int.from_bytes(share, "big") * numerator * pow(denominator, -1, PRIME)) % PRIME
    if total.bit_length() > 8 * SEED_BYTES:
        raise DataRefused("the shares of a mask do not belong together; a silo sent a false one")
    return total.to_bytes(SEED_BYTES, "big")


def new_key() -> bytes:
    """New private X25519 key."""
    return X25519PrivateKey.generate().private_bytes_raw()


def public_key(private: bytes) -> bytes:
    """Public key of a private X25519 key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: bytes, public: bytes, context: str) -> bytes:
    """Shared secret of two silos for one purpose; equal on both sides.

    Raises:
        DataRefused: The public key is not a valid one.
    """
    try:
        shared = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise DataRefused("a silo's public key is unusable") from error
    return HKDF(SHA256(), SEED_BYTES, None, context.encode()).derive(shared)


def pair_seed(private: bytes, public: bytes, run_id: str, number: int) -> bytes:
    """Seed of the pairwise mask of two silos."""
    return agree(private, public, f"mask/{run_id}/{number}")


def seal_share(private: bytes, public: bytes, context: str, share: bytes) -> bytes:
    """Encrypted share for one recipient; ``context`` names run, round, sender and recipient."""
    return ChaCha20Poly1305(agree(private, public, context)).encrypt(_NONCE, share, context.encode())


def open_share(private: bytes, public: bytes, context: str, data: bytes) -> bytes:
    """Decrypted share from :func:`seal_share`.

    Raises:
        DataRefused: The share was encrypted with another key or for another context.
    """
    try:
        return ChaCha20Poly1305(agree(private, public, context)).decrypt(_NONCE, data, context.encode())
    except InvalidTag as error:
        raise DataRefused(f"the share of {context} cannot be read") from error


def mask_words(seed: bytes, name: str, start: int, stop: int) -> Words:
    """Elements ``[start, stop)`` of the mask of tensor ``name``, flat."""
    key = hashlib.blake2b(name.encode(), key=seed, digest_size=32).digest()
    first = start * WORD_BYTES // BLOCK_BYTES
    skip = start * WORD_BYTES - first * BLOCK_BYTES
    length = skip + (stop - start) * WORD_BYTES
    stream = Cipher(algorithms.AES256(key), modes.CTR(first.to_bytes(BLOCK_BYTES, "big"))).encryptor()
    data = stream.update(bytes(length))
    return np.frombuffer(data, "<u8")[skip // WORD_BYTES :]


def encode(values: Array, share: float, fraction_bits: int) -> Words:
    """``share * values`` as fixed-point numbers mod 2^64."""
    scaled = np.rint(values.astype(np.float64) * (share * 2.0**fraction_bits))
    return scaled.astype(np.int64).view(np.uint64)


def decode(words: Words, fraction_bits: int) -> Sum:
    """Fixed-point numbers mod 2^64 as float64."""
    return words.view(np.int64) / 2.0**fraction_bits


def check_headroom(bound: float, share: float, silos: int, fraction_bits: int) -> None:
    """Check that the sum of all updates fits 64 bits.

    Raises:
        UsageError: The sum could wrap around; the text says what to change.
    """
    if bound * share * silos * 2.0**fraction_bits >= 2.0**62:
        raise UsageError(
            f"updates of norm {bound:g} with share {share:g} from {silos} silos do not fit 64-bit sums with "
            f"{fraction_bits} fraction bits; lower privacy.fraction_bits or the bound, or weigh silos alike"
        )


def masked(name: str, words: Words, masks: Sequence[Mask]) -> Words:
    """Flat elements of one tensor with masks added."""
    total = words.copy()
    for mask in masks:
        noise = mask_words(mask.seed, name, 0, len(total))
        total = total + noise if mask.sign > 0 else total - noise
    return total


class MaskedSum:
    """Combiner: sum of masked updates minus the masks that do not cancel.

    Args:
        masks: Masks left in the sum.
        fraction_bits: Fraction bits of the fixed-point numbers.
        bound: Largest absolute value of an element of an update, before its share.
    """

    def __init__(self, masks: Sequence[Mask], fraction_bits: int, bound: float) -> None:
        self._masks, self._fraction_bits, self._bound = masks, fraction_bits, bound

    def __call__(self, terms: Sequence[Term], source: Source) -> Sequence[Sum]:
        """See :class:`~eoforge.federated.reduce.Combiner`.

        Raises:
            DataRefused: The sum is larger than all silos together may send.
        """
        sums = []
        for term in terms:
            total = np.zeros(term.stop - term.start, np.uint64)
            for silo in sorted(term.add.shares):
                total += source.update(silo, term.add.name, term.start, term.stop)
            for mask in self._masks:
                noise = mask_words(mask.seed, term.add.name, term.start, term.stop)
                total = total - noise if mask.sign > 0 else total + noise
            values = decode(total, self._fraction_bits)
            limit = self._bound * sum(term.add.shares.values()) * (1 + 1e-6) + len(term.add.shares)
            if values.size and float(np.abs(values).max()) > limit:
                raise DataRefused("the sum of the masked updates is larger than all silos together may send")
            sums.append(values)
        return sums
