"""``python -m shoal_coordinator.hub``: what ``shoal hub run`` does, without the command line's imports."""

import argparse
import asyncio
import sys
from pathlib import Path

from shoal_codecs.lifecycle import one_thread_for_arrays, remember_signals
from shoal_codecs.memory import SERVER_BYTES, keep_freed_memory


def main(
    config: Path | None,
    broker: str | None = None,
    data_dir: Path | None = None,
    *,
    stop_on_stdin_eof: bool | None = None,
) -> None:
    """Run a hub from its settings file until it is told to stop; the arguments override the file.

    Raises:
        ShoalError: the text says what to do.
    """
    remember_signals()
    one_thread_for_arrays()
    keep_freed_memory(*SERVER_BYTES)
    from shoal_codecs.settings import load_settings  # noqa: PLC0415 - after the signals are caught
    from shoal_coordinator.hub.config import HubSettings  # noqa: PLC0415
    from shoal_coordinator.hub.service import run_hub  # noqa: PLC0415

    overrides = {
        "link.url": broker,
        "data_dir": None if data_dir is None else str(data_dir),
        "stop_on_stdin_eof": stop_on_stdin_eof,
    }
    asyncio.run(run_hub(load_settings(HubSettings, config, overrides=overrides)))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m shoal_coordinator.hub", description=main.__doc__)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--broker", metavar="URL")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--stop-on-stdin-eof", action="store_true", default=None)
    return parser.parse_args()


if __name__ == "__main__":
    from shoal_codecs.errors import ShoalError

    arguments = _parse()
    try:
        main(
            arguments.config,
            arguments.broker,
            arguments.data_dir,
            stop_on_stdin_eof=arguments.stop_on_stdin_eof,
        )
    except ShoalError as error:
        sys.exit(f"{type(error).__name__}: {error}")
