"""Secure aggregation: the server learns the sum of updates and nothing about a single one.

After Bonawitz et al., CCS 2017, against a server that is curious but follows the protocol. Silo ``i`` sends ::

    y_i = fixed(share_i * u_i) + PRG(b_i) + sum_{j > i} PRG(s_ij) - sum_{j < i} PRG(s_ij)      mod 2^64

where ``s_ij`` is agreed between two silos by X25519 and ``b_i`` is its own. Summed over survivors the pairwise masks
cancel, except those with silos that vanished. Shamir shares of ``b_i`` and of the mask key, deposited before training,
let any ``threshold`` survivors give the server ``b_i`` of survivors and the mask key of the vanished: never both for
one silo, which is why the set of survivors is final before any share is asked for.

Masks are AES-256-CTR streams, so any slice of any tensor's mask is computed by itself.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

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
What = Literal["seed", "key"]


@dataclass(frozen=True)
class Mask:
    """A mask that is in a sum, and with which sign."""

    seed: bytes
    sign: int


def split(secret: bytes, count: int, threshold: int) -> list[bytes]:
    """Shamir shares for holders ``1 .. count``, any ``threshold`` of which give the secret."""
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    shares = []
    for x in range(1, count + 1):
        y = 0
        for coefficient in reversed(coefficients):
            y = (y * x + coefficient) % PRIME
        shares.append(y.to_bytes(SHARE_BYTES, "big"))
    return shares


def combine_shares(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret of ``threshold`` or more shares by holder.

    Raises:
        DataRefused: They are too few, or not of one secret.
    """
    if len(shares) < threshold:
        raise DataRefused(f"{threshold} shares are needed to remove a mask; {len(shares)} are there")
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
    """A private X25519 key."""
    return X25519PrivateKey.generate().private_bytes_raw()


def public_key(private: bytes) -> bytes:
    """Its public key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: bytes, public: bytes, context: str) -> bytes:
    """The secret of two silos for one purpose; equal on both sides.

    Raises:
        DataRefused: The public key is none.
    """
    try:
        shared = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise DataRefused("a silo's public key is unusable") from error
    return HKDF(SHA256(), SEED_BYTES, None, context.encode()).derive(shared)


def pair_seed(private: bytes, public: bytes, run_id: str, number: int) -> bytes:
    """Seed of the mask between two silos."""
    return agree(private, public, f"mask/{run_id}/{number}")


def seal_share(private: bytes, public: bytes, context: str, share: bytes) -> bytes:
    """Encrypts shares for one recipient; ``context`` names run, round, sender and recipient."""
    return ChaCha20Poly1305(agree(private, public, context)).encrypt(_NONCE, share, context.encode())


def open_share(private: bytes, public: bytes, context: str, data: bytes) -> bytes:
    """Decrypts what :func:`seal_share` made.

    Raises:
        DataRefused: It was made with another key or for another context.
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
    """Refuses numbers whose sum could wrap around.

    Raises:
        UsageError: With what to change.
    """
    if bound * share * silos * 2.0**fraction_bits >= 2.0**62:
        raise UsageError(
            f"updates of norm {bound:g} with share {share:g} from {silos} silos do not fit 64-bit sums with "
            f"{fraction_bits} fraction bits; lower privacy.fraction_bits or the bound, or weigh silos alike"
        )


def masked(name: str, words: Words, masks: Sequence[Mask]) -> Words:
    """Adds masks to the flat elements of one tensor."""
    total = words.copy()
    for mask in masks:
        noise = mask_words(mask.seed, name, 0, len(total))
        total = total + noise if mask.sign > 0 else total - noise
    return total


class MaskedSum:
    """The sum of masked updates without what is left of the masks.

    Args:
        masks: What the sum still contains, with signs.
        fraction_bits: Of the fixed-point numbers.
        bound: Largest absolute value that an update may hold, before its share.
    """

    def __init__(self, masks: Sequence[Mask], fraction_bits: int, bound: float) -> None:
        self._masks, self._fraction_bits, self._bound = masks, fraction_bits, bound

    def __call__(self, terms: Sequence[Term], source: Source) -> Sequence[Sum]:
        """See :class:`~eoforge.federated.reduce.Combiner`.

        Raises:
            DataRefused: The sum is larger than all silos together may send: one of them broke the rules.
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
            most = self._bound * sum(term.add.shares.values()) * (1 + 1e-6) + len(term.add.shares)
            if values.size and float(np.abs(values).max()) > most:
                raise DataRefused("the sum of the masked updates is larger than all silos together may send")
            sums.append(values)
        return sums
