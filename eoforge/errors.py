"""Exception tree.

Every error that a user can cause or must act on is an :class:`EoforgeError`. Its message states what was expected, what
came, and what to do. The CLI maps ``exit_code`` to its exit status; services map ``reason`` to a gRPC status
(``services/_runtime/errors.py``). Any other exception is a bug.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """End of a message on an unknown name: the known names that resemble it, or all of them."""
    names = {name.casefold(): name for name in known}
    given = given.casefold()[:80]
    longer = [name for name in names if given and name.startswith(given)]
    close = [names[name] for name in longer[:3] or get_close_matches(given, names, n=3, cutoff=0.6)]
    return f"; did you mean {' or '.join(close)}?" if close else f"; expected one of {', '.join(names.values())}"


class EoforgeError(Exception):
    """Base of all errors with a message for the user."""

    exit_code: ClassVar[int] = 1
    reason: ClassVar[str] = "INTERNAL"
    field: str = ""
    """Path of the request's field that it is about, where a service knows it."""


class UsageError(EoforgeError):
    """Malformed call: an unknown name, a value out of range, arguments that contradict each other."""

    exit_code = 2
    reason = "INVALID_ARGUMENT"


class DataRefused(EoforgeError):
    """Refusal of data that contradict their format or each other."""

    exit_code = 3
    reason = "DATA_REFUSED"


class NotFound(EoforgeError):
    """Named table, bundle, version, index or patch that does not exist."""

    reason = "NOT_FOUND"


class DamagedObject(EoforgeError):
    """Stored object that cannot be read: cut off, overwritten, or of another kind."""


class StoreError(EoforgeError):
    """Failure of the object store: unreachable, access denied, or without the guarantees that Lance commits need."""

    reason = "STORE_UNAVAILABLE"


class ConflictError(EoforgeError):
    """Conflict with another writer in every attempt."""

    reason = "CONFLICT"


class LeaseLost(ConflictError):
    """Loss of the lease: another coordinator is active for this run, or for all runs."""

    reason = "NOT_LEADER"
    retry_after: ClassVar[float] = 1.0
    """Seconds until a new connection; a standby needs some time to become active."""


class WrongState(EoforgeError):
    """State that does not allow the call, such as a run that has ended or a closed round."""

    reason = "WRONG_STATE"


class BundleError(DataRefused):
    """Run bundle that is incomplete, damaged, or made for other bands, shapes or bits."""

    reason = "BUNDLE_REFUSED"


class LimitExceeded(UsageError):
    """Request above a stated limit; raised before memory of that size is allocated."""

    reason = "LIMIT_EXCEEDED"
