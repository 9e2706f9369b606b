"""The exception tree.

Every error that a user can cause or must act on is an :class:`EoforgeError`. Its message says what was expected, what
came, and what to do. The CLI maps ``exit_code`` to its exit status; services map ``reason`` to a gRPC status
(``services/_runtime/errors.py``). Anything else that escapes is a bug of ours.
"""

from __future__ import annotations

from typing import ClassVar


class EoforgeError(Exception):
    """Base of all errors with a message for the user."""

    exit_code: ClassVar[int] = 1
    reason: ClassVar[str] = "INTERNAL"


class UsageError(EoforgeError):
    """The call is malformed: an unknown name, a value out of range, arguments that contradict each other."""

    exit_code = 2
    reason = "INVALID_ARGUMENT"


class DataRefused(EoforgeError):
    """The data contradict their format or each other, and were not taken."""

    exit_code = 3
    reason = "DATA_REFUSED"


class NotFound(EoforgeError):
    """A table, bundle, version, index or patch that was named does not exist."""

    reason = "NOT_FOUND"


class StoreError(EoforgeError):
    """The object store cannot be reached, refuses us, or does not honour what Lance commits rely on."""

    reason = "STORE_UNAVAILABLE"


class ConflictError(EoforgeError):
    """Another writer won, as often as we retried."""

    reason = "CONFLICT"


class LeaseLost(ConflictError):
    """Another coordinator acts: for this run, or for all of them."""

    reason = "NOT_LEADER"
    retry_after: ClassVar[float] = 1.0
    """Seconds after which to connect anew; a standby needs a moment to notice that it is its turn."""


class WrongState(EoforgeError):
    """What was named exists, but is not in a state that allows the call: a run that has ended, a round that is over."""

    reason = "WRONG_STATE"


class BundleError(DataRefused):
    """A run bundle is incomplete, damaged, or made for other bands, shapes or bits."""

    reason = "BUNDLE_REFUSED"


class LimitExceeded(UsageError):
    """A request is larger than a stated limit; raised before anything of that size is allocated."""

    reason = "LIMIT_EXCEEDED"
