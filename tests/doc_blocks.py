"""Runs the shell blocks of a Markdown file, so that what it says stays true.

A block marked ``bash`` is run to its end. With ``terminal=NAME`` it stays running until the end, and the
next one is run when it has said the word in ``ready=WORD``. With ``at=PLACE`` it is run there. Environment
variables exported by a block are there in the blocks that follow.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```bash *(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
READY_S = 30.0
BLOCK_S = 150.0


@dataclass(frozen=True)
class Block:
    """One block and what stands on its fence."""

    text: str
    line: int
    terminal: str = ""
    ready: str = ""
    at: str = ""


def blocks(document: Path) -> list[Block]:
    """Return the blocks to be run, in their order."""
    text = document.read_text()
    found = []
    for match in FENCE.finditer(text):
        info = dict(word.split("=", 1) for word in match["info"].split())
        found.append(Block(match["text"], text.count("\n", 0, match.start()) + 1, **info))
    return found


class Terminals:
    """Runs blocks in ``folder``; ``inside`` maps a place to the words that enter it."""

    def __init__(
        self,
        folder: Path,
        *,
        change: Callable[[str], str] = str,
        inside: Callable[[str], Sequence[str]] = lambda _: (),
    ) -> None:
        self._folder = folder
        self._change = change
        self._inside = inside
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        clean = {key: value for key, value in os.environ.items() if not key.startswith("SHOAL_")}
        self._environment = clean | one_thread | {"PATH": path, "COLUMNS": "120"}
        self.output: list[str] = []

    def run(self, block: Block) -> str:
        """Run one block and return what it printed; a terminal's is in its log."""
        text = self._change(block.text)
        if block.terminal:
            self._open(block, text)
            return ""
        after = self._folder / "environment"
        script = f"{text}\nexport -p > {after}\n"
        if after.exists():
            script = f". {after}\n{script}"
        done = self.start(block.at, script).communicate(timeout=BLOCK_S)[0]
        code = self._last.returncode
        self.output.append(done.decode())
        assert code == 0, f"line {block.line}: {text}\nended with {code}:\n{done.decode()}\n{self.logs()}"
        return done.decode()

    def start(self, at: str, script: str) -> subprocess.Popen[bytes]:
        """Start a script whose output is read by the caller."""
        self._last = subprocess.Popen(
            [*self._inside(at), "bash", "-euo", "pipefail", "-c", script],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return self._last

    def log(self, terminal: str) -> str:
        """Return what a terminal showed until now."""
        return self._log(terminal).read_text(errors="replace")

    def logs(self) -> str:
        """Return the last lines of every terminal."""
        return "\n".join(f"== {name}\n{self.log(name)[-1500:]}" for name in self._running)

    def end(self) -> None:
        """Press Ctrl-C in every terminal, last one first, and see that each ends."""
        for process in reversed(self._running.values()):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
        for process in self._running.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def close(self, terminal: str) -> None:
        """Press Ctrl-C in one terminal and wait for its end."""
        process = self._running.pop(terminal)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(10) == 0, self.log(terminal)[-1500:]

    def codes(self) -> dict[str, int | None]:
        """Return how each terminal's process ended."""
        return {name: process.poll() for name, process in self._running.items()}

    def _log(self, terminal: str) -> Path:
        return self._folder / f"{terminal}.terminal"

    def _open(self, block: Block, text: str) -> None:
        with self._log(block.terminal).open("wb") as log:
            process = subprocess.Popen(
                [*self._inside(block.at), "bash", "-c", f"exec {text}"],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._running[block.terminal] = process
        deadline = time.monotonic() + READY_S
        while block.ready and block.ready not in self.log(block.terminal):
            said = self.log(block.terminal)[-1500:]
            assert process.poll() is None, f"line {block.line}: {text} ended:\n{said}"
            assert time.monotonic() < deadline, f"line {block.line}: not {block.ready!r} in time:\n{said}"
            time.sleep(0.05)


@contextlib.contextmanager
def terminals(
    folder: Path,
    *,
    change: Callable[[str], str] = str,
    inside: Callable[[str], Sequence[str]] = lambda _: (),
) -> Iterator[Terminals]:
    """Terminals whose processes are ended, whatever happens."""
    opened = Terminals(folder, change=change, inside=inside)
    try:
        yield opened
    finally:
        opened.end()
