"""Exception tree.

Every error that a user can cause or must act on is an :class:`EoforgeError`. Its message states what was expected, what
came, and what to do. The CLI maps ``exit_code`` to its exit status; services map ``reason`` to a gRPC status
(``services/_runtime/errors.py``). Any other exception is a bug.
"""

from __future__ import annotations

from typing import ClassVar


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
