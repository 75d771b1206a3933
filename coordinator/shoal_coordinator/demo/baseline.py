"""What one machine would reach with all the data in one place, for comparison."""

import asyncio
import contextlib
import json
import sys
from pathlib import Path

from shoal_codecs.errors import ShoalError

EPOCHS_A_ROUND = 5


class BaselineFailedError(ShoalError):
    """The centralised baseline could not be computed."""


async def _output(process: asyncio.subprocess.Process) -> tuple[bytes, bytes]:
    """Return what the process printed; its standard input stays open, for its end means ours."""
    if process.stdout is None or process.stderr is None:
        raise BaselineFailedError("the centralised baseline has no output to read")
    out, err = await asyncio.gather(process.stdout.read(), process.stderr.read())
    await process.wait()
    return out, err


async def centralised_accuracy(task: Path, shards: list[Path], rounds: int, seed: int) -> float:
    """Return the held-out accuracy after as many epochs on the pooled data as ``rounds`` rounds make.

    It runs in a process of its own, behind the fleet in the queue for the processor.

    Raises:
        BaselineFailedError: with what the process said.
    """
    process = await asyncio.create_subprocess_exec(
        *("nice", "-n", "15", sys.executable, "-m", "shoal_edge.trainers.baseline"),
        *("--task", str(task), "--epochs", str(EPOCHS_A_ROUND * rounds), "--seed", str(seed)),
        "--stop-on-stdin-eof",
        *map(str, shards),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # A Ctrl-C in the terminal is the launcher's; here it would look like a failure.
        start_new_session=True,
    )
    try:
        out, err = await _output(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    if process.returncode:
        raise BaselineFailedError(f"the centralised baseline failed: {err.decode(errors='replace')[-300:]}")
    accuracy: float = json.loads(out)["accuracy"]
    return accuracy
