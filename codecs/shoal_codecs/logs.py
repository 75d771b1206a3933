"""Logs: structlog, for a person's console where one looks, JSON lines otherwise."""

import logging
import sys
import traceback
from pathlib import PurePath
from typing import Any, TextIO

import structlog

from shoal_codecs.errors import ShoalError

log = structlog.get_logger()
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure_logs(level: str = "info", *, console: bool | None = None, stream: TextIO | None = None) -> None:
    """Send every log line to ``stream`` (standard error).

    ``console`` chooses the human form; by default it is taken where the stream is a terminal. Bound
    context (round, device, version) stands in every line of its task.
    """
    out = stream or sys.stderr
    if console is None:
        console = out.isatty()
    last: Any
    if console:
        # The plain traceback formatter keeps rich out of a device's memory.
        last = structlog.dev.ConsoleRenderer(
            colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    else:
        last = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=True,
    )


def log_failure(event: str, exc: Exception, **context: str) -> None:
    """Log an exception by type and place: its text is shown only where it is one of our own."""
    frame = traceback.extract_tb(exc.__traceback__)[-1]
    context["error"] = type(exc).__name__
    context["where"] = f"{PurePath(frame.filename).name}:{frame.lineno}"
    if isinstance(exc, ShoalError):
        context["remedy"] = str(exc)
    log.error(event, **context)
