"""Settings of the retrieval service (``EOFORGE_*`` environment variables)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from eoforge.errors import UsageError
from eoforge.index.cache.folder import DEFAULT_BYTES
from eoforge.index.ivf.search import DEFAULT_MEMORY
from services._runtime.settings import MOST_BYTES, MOST_COUNT, MOST_SECONDS, MOST_THREADS, RuntimeSettings
from services.retrieval.owners import EVERY_HUB, OWNER_PATTERN, Partner, Upstream, listed


class RetrievalSettings(RuntimeSettings):
    """Settings of the served index and limits of one request; see :class:`RuntimeSettings` for the others."""

    codes_uri: str = Field(description="codes.lance to serve: a path or s3:// URI. With @VERSION it is never swapped.")
    index_name: str = Field("default", description="Name of the index in ListIndexes.")
    model_name: str = Field("eoforge-retrieval", description="Prefix of the OIP V2 model names (-encode and -search).")
    device: str | None = Field(None, description="Torch device of encoder and search; unset takes the CPU.")
    poll_seconds: float = Field(
        30.0, gt=0, le=MOST_SECONDS, description="How often to look for a newer version of the codes."
    )

    cache_folder: str | None = Field(
        None, description="Folder of the local copy of the index; unset: eoforge/index in XDG_CACHE_HOME."
    )
    cache_bytes: int = Field(
        DEFAULT_BYTES,
        ge=1 << 20,
        le=1 << 50,
        description="Most bytes of that copy; the least recently used indexes make room.",
    )

    min_recall: float = Field(
        1.0, gt=0, le=1, description="Least recall@10 of a search that names none; 1 is exact. For IVF indexes."
    )
    index_memory_bytes: int = Field(
        DEFAULT_MEMORY, ge=1 << 20, le=1 << 40, description="Most bytes of an IVF index that stay in memory."
    )

    max_page_size: int = Field(1000, ge=1, le=1000, description="Most hits in one answer.")
    max_images: int = Field(64, ge=1, le=MOST_COUNT, description="Most images in one Encode or OIP request.")
    max_image_bytes: int = Field(
        4 << 20, ge=1 << 10, le=MOST_BYTES, description="Largest encoded image (all GeoTIFF files of it)."
    )
    max_thumbnails: int = Field(100, ge=0, le=MOST_COUNT, description="Most hits with thumbnails in one answer.")

    encode_batch: int = Field(32, ge=1, le=MOST_COUNT, description="Most images that the encoder gets at once.")
    encode_delay_seconds: float = Field(
        0.002, ge=0, le=MOST_SECONDS, description="How long an image waits for company."
    )
    encode_queue: int = Field(
        256, ge=1, le=MOST_COUNT, description="Images that may wait; beyond that callers get OVERLOADED."
    )
    search_workers: int = Field(2, ge=1, le=MOST_THREADS, description="Searches that run at the same time.")
    read_workers: int = Field(4, ge=1, le=MOST_THREADS, description="Reads of the store that run at the same time.")
    read_seconds: float = Field(
        20.0, gt=0, le=MOST_SECONDS, description="Longest read; then callers get STORE_UNAVAILABLE."
    )
    search_queue: int = Field(
        256, ge=1, le=MOST_COUNT, description="Searches, and reads, that may wait; beyond that callers get OVERLOADED."
    )

    owner: str | None = Field(
        None,
        pattern=OWNER_PATTERN,
        description="Name of this archive's owner; hits across archives say it.",
    )
    upstreams: Annotated[tuple[Upstream, ...], BeforeValidator(listed), NoDecode] = Field(
        (), max_length=64, description="Archives of other owners that a search may ask, as a JSON list."
    )
    partners: Annotated[tuple[Partner, ...], BeforeValidator(listed), NoDecode] = Field(
        (), max_length=1024, description="Callers that ask for other owners, and what each may have, as a JSON list."
    )

    def __init__(self, **values: Any) -> None:  # explicit, because type checkers would otherwise require every field
        super().__init__(**values)

    def require_consistent(self) -> None:
        """Check for contradictions.

        Raises:
            UsageError: Settings contradict each other; the message says what to set.
        """
        super().require_consistent()
        if self.max_images > self.encode_queue:
            raise UsageError(
                f"EOFORGE_MAX_IMAGES ({self.max_images}) above EOFORGE_ENCODE_QUEUE ({self.encode_queue}) would allow "
                "requests that can never be served; raise the queue or lower the limit"
            )
        self._require_owners()

    def _require_owners(self) -> None:
        if (self.upstreams or self.partners) and self.owner is None:
            raise UsageError("EOFORGE_UPSTREAMS and EOFORGE_PARTNERS need EOFORGE_OWNER, the name of this archive")
        names = [upstream.owner for upstream in self.upstreams]
        if self.owner in names:
            raise UsageError(f"EOFORGE_UPSTREAMS names {self.owner}, which is this archive itself (EOFORGE_OWNER)")
        for what, given in (("owner", names), ("address", [upstream.address for upstream in self.upstreams])):
            if twice := next((name for name in given if given.count(name) > 1), None):
                raise UsageError(f"EOFORGE_UPSTREAMS gives the {what} {twice} twice; one archive counts once")
        callers = [partner.caller for partner in self.partners]
        if twice := next((name for name in callers if callers.count(name) > 1), None):
            raise UsageError(f"EOFORGE_PARTNERS names the caller {twice} twice")
        if set(callers) - {EVERY_HUB} and not self.authenticates:
            raise UsageError(
                "EOFORGE_PARTNERS names callers, whom only credentials tell apart: set EOFORGE_TOKEN_KEY_FILE or "
                "EOFORGE_TLS_CLIENT_CA_FILE"
            )
        if self.partners and self.log_level in ("warning", "error"):
            raise UsageError(
                f"EOFORGE_PARTNERS writes one audit line of level info per query, which EOFORGE_LOG_LEVEL="
                f"{self.log_level} would drop; set info or debug"
            )
