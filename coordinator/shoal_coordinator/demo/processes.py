"""The demo's children: real processes that end with their parent, however it ends."""

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from shoal_codecs.errors import ShoalError

STOP_S = 2.0


class ChildFailedError(ShoalError):
    """A child process ended when it should have run on; the text names its log."""


@dataclass(frozen=True, slots=True)
class Command:
    """How a child is started again: name, arguments after the interpreter, and its log file."""

    name: str
    arguments: tuple[str, ...]
    log: Path


class Children:
    """Starts, kills and stops child processes; each ends by itself when its standard input closes."""

    def __init__(self) -> None:
        self._commands: dict[str, Command] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, command: Command) -> None:
        """Start a child, or start it again after it was killed."""
        command.log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        # Sessions of their own: a Ctrl-C in the terminal is the launcher's to hand on, in order.
        with command.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *command.arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self._commands[command.name] = command
        self._processes[command.name] = process

    def pid(self, name: str) -> int:
        """Return the process id of a child."""
        return self._processes[name].pid

    async def kill(self, name: str) -> None:
        """End a child with SIGKILL, as a power cut would."""
        process = self._processes[name]
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()

    async def restart(self, name: str) -> None:
        """Start a killed child again with the same command."""
        await self.start(self._commands[name])

    def check(self) -> None:
        """Raise if a child ended by itself.

        Raises:
            ChildFailedError: with the last words of its log.
        """
        for name, process in self._processes.items():
            if process.returncode not in {None, -signal.SIGKILL}:
                log = self._commands[name].log
                lines = log.read_text(errors="replace").strip().splitlines()
                last = lines[-1][:300] if lines else "it said nothing"
                raise ChildFailedError(f"{name} ended with {process.returncode}: {last} (all of it in {log})")

    async def stop(self) -> None:
        """Ask every child to end, and end those that do not within ``STOP_S``."""
        running = [p for p in self._processes.values() if p.returncode is None]
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        if running:
            waits = [asyncio.ensure_future(process.wait()) for process in running]
            _, late = await asyncio.wait(waits, timeout=STOP_S)
            for process in running:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
            if late:
                await asyncio.wait(late)
        self._processes.clear()
