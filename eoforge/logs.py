"""Logs of the command line and of the services: structured, on standard error, so that results keep standard output."""

from __future__ import annotations

import logging
import sys

import structlog


class _StandardError:
    """Standard error as it is when something is written: whoever replaced it may have closed the one of earlier."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def configure_logs(*, as_json: bool, level: int = logging.INFO) -> None:
    """Sends events of ``level`` and above, and the warnings of libraries, to standard error.

    Args:
        as_json: One JSON object a line, for machines; otherwise lines for people.
        level: A level of ``logging``.
    """
    stream = _StandardError()
    logging.basicConfig(stream=stream, level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=stream),  # type: ignore[arg-type]  # write and flush
    )
