"""Structured logs of the command line and of the services, on standard error; standard output is for results."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import stamina
import structlog


class _StandardError:
    """Stream that looks up ``sys.stderr`` at each write, because an earlier ``sys.stderr`` may be closed."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def configure_logs(*, as_json: bool, level: int = logging.INFO) -> None:
    """Configures logging of events of ``level`` and above, and of warnings of libraries, to standard error.

    Args:
        as_json: One JSON object per line for machines; otherwise lines for people.
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
            *(
                [structlog.processors.JSONRenderer()]
                if as_json
                else [_printable_values, structlog.dev.ConsoleRenderer()]
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=stream),  # type: ignore[arg-type]  # a line is one write
    )
    stamina.instrumentation.set_on_retry_hooks([_log_retry])


def printable(text: str) -> str:
    """Text without characters that control a terminal; line breaks stay."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)


def _printable_values(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Processor: texts of other machines do not control the terminal."""
    return {key: printable(value) if isinstance(value, str) else value for key, value in event.items()}


def _log_retry(details: stamina.instrumentation.RetryDetails) -> None:
    """Log of a retry in one line; stamina's default repeats a gRPC error with all its debug text."""
    seconds = round(details.waited_so_far + details.wait_for, 1)
    message = getattr(details.caused_by, "details", None)  # method of gRPC errors
    text = str(message() if callable(message) else details.caused_by).partition("\n")[0][:160]
    structlog.get_logger("retry").warning("retrying", attempt=details.retry_num, seconds_so_far=seconds, after=text)
