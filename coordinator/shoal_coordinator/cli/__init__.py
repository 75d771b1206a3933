"""``shoal``: the operator's command line. Each command imports what it needs when it runs."""

import os
import sys

from shoal_codecs.lifecycle import remember_signals

SERVICES = (["coordinator", "run"], ["hub", "run"])


def main() -> None:
    """Run the command line; a named fault is one line on standard error and exit code 2."""
    # Before the imports that take time: a Ctrl-C in the middle of them ends in order too.
    if sys.argv[1:2] == ["demo"] or sys.argv[1:3] in SERVICES:
        remember_signals()
    from shoal_codecs.errors import ShoalError  # noqa: PLC0415
    from shoal_coordinator.cli.commands import app  # noqa: PLC0415

    try:
        app()
    except ShoalError as error:
        _fail(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output (head, less) has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _fail(text: str) -> None:
    red, plain = ("\x1b[31m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
    sys.stderr.write(f"{red}shoal: {text}{plain}\n")
    sys.exit(2)
