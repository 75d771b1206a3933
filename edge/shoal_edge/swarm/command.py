"""``shoal-edge swarm``: its options, and how it starts and ends."""

import argparse
import asyncio
import contextlib
import os
import resource
import sys
import threading
from pathlib import Path
from typing import Any

from shoal_codecs.lifecycle import remember_signals, run_until_stopped

END_S = 15.0
"""How long a swarm may take to end after it was told to."""
FILES, FILES_EACH = 256, 4
"""Files that a swarm may have open, and more for each device, which has a connection and a lock."""
_DESCRIPTION = (
    "Runs the devices of a folder that `shoal fleet init FLEET --devices N` made, each with its own key, "
    "state and connection, on one data set that is split among them."
)


def add_swarm(commands: Any) -> None:
    """Add the command to an argument parser's ``commands``."""
    swarm = commands.add_parser(
        "swarm", help="run many virtual devices in one process", description=_DESCRIPTION
    )
    swarm.add_argument("--fleet", type=Path, required=True, metavar="DIR", help="the parties' folders")
    swarm.add_argument(
        "--data",
        required=True,
        metavar="SOURCE",
        help="examples for all: FILE.npz, KIND:PATH, or FILE.toml with a table [data]",
    )
    swarm.add_argument("--devices", type=_count, default=0, metavar="N", help="the first N (default: all)")
    swarm.add_argument(
        "--partition", default="iid", metavar="HOW", help="iid, blocks, shards:2, dirichlet:0.3"
    )
    swarm.add_argument("--seed", type=_count, default=1, metavar="N", help="of the partition (default: 1)")
    swarm.add_argument(
        "--held-out", type=_share, default=0.2, metavar="SHARE", help="not trained on (default: 0.2)"
    )
    swarm.add_argument(
        "--workers", type=_count, default=0, metavar="N", help="processes that train (default: one per core)"
    )
    swarm.add_argument("--broker", metavar="URL", help="instead of the settings' own")
    swarm.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="warning", help="of all devices"
    )
    swarm.add_argument(
        "--stop-on-stdin-eof", action="store_true", help="end when the parent that holds standard input ends"
    )
    swarm.set_defaults(command=run_swarm)


def run_swarm(options: argparse.Namespace) -> int:
    """Run the swarm until stopped.

    Raises:
        ShoalError: it cannot start, or no device is left.
    """
    # Before the imports that take time.
    remember_signals()
    from shoal_codecs.logs import configure_logs  # noqa: PLC0415
    from shoal_edge.sources.settings import ShareSettings  # noqa: PLC0415
    from shoal_edge.swarm.folders import device_settings  # noqa: PLC0415
    from shoal_edge.swarm.source import data_settings  # noqa: PLC0415
    from shoal_edge.swarm.swarm import Swarm  # noqa: PLC0415

    configure_logs(options.log_level)
    settings = device_settings(options.fleet, options.devices, options.broker)
    allow_files(FILES + FILES_EACH * len(settings))
    share = ShareSettings(partition=options.partition, seed=options.seed, held_out=options.held_out)
    swarm = Swarm(settings, data_settings(options.data), share, options.workers or os.cpu_count() or 1)

    async def tell() -> None:
        connected, failed = await swarm.ready()
        sys.stdout.write(f"{connected} devices connected, {failed} failed\n")
        sys.stdout.flush()

    async def farewell() -> None:
        end_anyway_after(END_S)
        await swarm.farewell()

    async def serve() -> None:
        telling = asyncio.create_task(tell())
        try:
            await run_until_stopped(
                swarm.run(), stop_on_stdin_eof=options.stop_on_stdin_eof, farewell=farewell
            )
        finally:
            telling.cancel()

    asyncio.run(serve())
    return 0


def allow_files(count: int) -> None:
    """Let this process have ``count`` files open, or as many as the system lets it: 1,024 are usual."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        most = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def end_anyway_after(seconds: float) -> None:
    """End the process ``seconds`` from now, whatever it still waits for.

    One of many connections may hang on its way down, when the broker goes in the same moment, and would keep
    the others' process alive for ever. What was promised is on disk; workers end with this process.
    """
    timer = threading.Timer(seconds, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _count(text: str) -> int:
    # In ASCII digits: int() takes "1_000" and other alphabets, too.
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"take a whole number from 0, not {text!r}")
    return int(text)


def _share(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (number := float(text)) < 1:
            return number
    raise argparse.ArgumentTypeError(f"take 0 to under 1, not {text!r}")
