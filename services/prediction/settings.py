"""Settings of the prediction service (``EOFORGE_*`` environment variables)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from eoforge.errors import UsageError
from services._runtime.settings import MOST_COUNT, MOST_SECONDS, MOST_THREADS, RuntimeSettings


class PredictionSettings(RuntimeSettings):
    """Settings of the served bundles and limits of one request; see :class:`RuntimeSettings` for the others."""

    bundle_uris: str = Field(
        description="Run bundles that classify, segment or regress, paths or s3:// URIs separated by commas; one for "
        "each choice of sensors."
    )
    model_name: str = Field("eoforge-predict", description="Prefix of the OIP V2 model names (-s1, -s2 and -s1s2).")
    device: str | None = Field(None, description="Torch device of the networks; unset takes the CPU.")

    max_patches: int = Field(32, ge=1, le=MOST_COUNT, description="Most patches in one request.")
    predict_batch: int = Field(32, ge=1, le=MOST_COUNT, description="Most patches that a network gets at once.")
    predict_delay_seconds: float = Field(
        0.002, ge=0, le=MOST_SECONDS, description="How long a patch waits for company."
    )
    predict_queue: int = Field(
        256, ge=1, le=MOST_COUNT, description="Patches that may wait; beyond that callers get OVERLOADED."
    )
    tensor_workers: int = Field(
        2, ge=1, le=MOST_THREADS, description="Requests read and answers made at the same time."
    )
    tensor_queue: int = Field(
        256, ge=1, le=MOST_COUNT, description="Such calls that may wait; beyond that callers get OVERLOADED."
    )

    def __init__(self, **values: Any) -> None:  # explicit, because type checkers would otherwise require every field
        super().__init__(**values)

    @property
    def bundles(self) -> tuple[str, ...]:
        """URIs of the bundles."""
        return tuple(uri.strip() for uri in self.bundle_uris.split(",") if uri.strip())

    def require_consistent(self) -> None:
        """Check for contradictions.

        Raises:
            UsageError: Settings contradict each other; the message says what to set.
        """
        super().require_consistent()
        if not self.bundles:
            raise UsageError("nothing to serve: EOFORGE_BUNDLE_URIS must name a run bundle that predicts")
        if self.max_patches > self.predict_queue:
            raise UsageError(
                f"EOFORGE_MAX_PATCHES ({self.max_patches}) above EOFORGE_PREDICT_QUEUE ({self.predict_queue}) would "
                "allow requests that can never be served; raise the queue or lower the limit"
            )
