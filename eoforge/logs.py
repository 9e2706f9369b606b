"""Logs of the command line and of the services: structured, on standard error, so that results keep standard output."""

from __future__ import annotations

import logging
import sys

import stamina
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
        logger_factory=structlog.WriteLoggerFactory(file=stream),  # type: ignore[arg-type]  # a line is one write
    )
    stamina.instrumentation.set_on_retry_hooks([_say_retry])


def _say_retry(details: stamina.instrumentation.RetryDetails) -> None:
    """One line instead of stamina's own, which repeats a gRPC error with all its debug text."""
    seconds = round(details.waited_so_far + details.wait_for, 1)
    said = getattr(details.caused_by, "details", None)  # gRPC errors: what the peer or the channel said
    text = str(said() if callable(said) else details.caused_by).partition("\n")[0][:160]
    structlog.get_logger("retry").warning("retrying", attempt=details.retry_num, seconds_so_far=seconds, after=text)
