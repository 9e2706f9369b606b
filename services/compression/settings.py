"""Settings of the compression service (``EOFORGE_*`` environment variables)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from eoforge.errors import UsageError
from services._runtime.settings import MOST_BYTES, MOST_COUNT, MOST_SECONDS, MOST_THREADS, RuntimeSettings


class CompressionSettings(RuntimeSettings):
    """Settings of the served codecs and limits of one request; see :class:`RuntimeSettings` for the others."""

    bundle_uris: str = Field(
        "",
        description="Run bundles of codecs, paths or s3:// URIs separated by commas; the first is the default. "
        "None: streams of bounded error only, which need no model.",
    )
    model_name: str = Field(
        "eoforge-compression", description="Prefix of the OIP V2 model names (-compress, -decompress and -hash)."
    )
    device: str | None = Field(None, description="Torch device of the codecs; unset takes the CPU.")

    max_pixels: int = Field(
        1 << 22, ge=1, le=MOST_COUNT, description="Most pixels of the 10 m grid in one raster, given or to be decoded."
    )
    max_raster_bytes: int = Field(
        12 << 20, ge=1 << 10, le=MOST_BYTES, description="Largest raster (all bands or files of it)."
    )
    max_stream_bytes: int = Field(12 << 20, ge=1 << 10, le=MOST_BYTES, description="Largest stream.")

    codec_batch: int = Field(16, ge=1, le=MOST_COUNT, description="Most patches that a codec gets at once.")
    codec_delay_seconds: float = Field(0.002, ge=0, le=MOST_SECONDS, description="How long a patch waits for company.")
    codec_queue: int = Field(
        256, ge=1, le=MOST_COUNT, description="Patches that may wait; beyond that callers get OVERLOADED."
    )
    codec_workers: int = Field(
        2,
        ge=1,
        le=MOST_THREADS,
        description="Bounded-error codings, GeoTIFF readings and header readings that run at the same time.",
    )
    codec_worker_queue: int = Field(
        256, ge=1, le=MOST_COUNT, description="Such calls that may wait; beyond that callers get OVERLOADED."
    )
    stream_window: int = Field(
        16, ge=1, le=MOST_COUNT, description="Patches of one stream of requests that are worked on at once."
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
        largest = max(self.max_raster_bytes, self.max_stream_bytes)
        if largest > self.max_message_bytes:
            raise UsageError(
                f"EOFORGE_MAX_RASTER_BYTES and EOFORGE_MAX_STREAM_BYTES (up to {largest}) must fit into "
                f"EOFORGE_MAX_MESSAGE_BYTES ({self.max_message_bytes}); raise that or lower these"
            )
        if self.stream_window > self.codec_queue:
            raise UsageError(
                f"EOFORGE_STREAM_WINDOW ({self.stream_window}) above EOFORGE_CODEC_QUEUE ({self.codec_queue}) would "
                "let one stream fill the queue by itself; raise the queue or lower the window"
            )
