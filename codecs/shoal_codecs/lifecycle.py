"""How a process stops: on SIGINT, SIGTERM, or when the parent that holds its stdin is gone.

Call ``remember_signals`` first thing, before heavy imports: a Ctrl-C in the middle of them then stops the
process in order as soon as its loop runs, and leaves no traceback.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
FAREWELL_S = 1.0
STDIN_ENDED = "stdin ended"
FINISHED = "finished"
_STDIN = 0
_remembered: list[str] = []


def remember_signals() -> None:
    """Remember a stop signal that comes before the loop runs, instead of dying of it."""
    for number in STOP_SIGNALS:
        signal.signal(number, _remember)


def one_thread_for_arrays() -> None:
    """Keep numpy's linear algebra in one thread; call it before numpy is imported.

    A sum of squares over a model's weights would wake a thread for every core, and each spins for longer than
    the sum takes. Whoever sets the variable keeps what it says.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


async def until_stopped(stop_on_stdin_eof: bool) -> str:  # noqa: FBT001 - one flag, named after its setting
    """Wait for the word to stop and return it: ``SIGINT``, ``SIGTERM`` or ``stdin ended``.

    ``stop_on_stdin_eof`` follows the parent: its end of the pipe closes even when it is killed.
    """
    async with _stop_words(stop_on_stdin_eof=stop_on_stdin_eof) as word:
        return await word


async def run_until_stopped(
    work: Coroutine[Any, Any, None],
    *,
    stop_on_stdin_eof: bool = False,
    farewell: Callable[[], Awaitable[None]] | None = None,
) -> str:
    """Run ``work`` until it ends or the process shall stop; return why (``finished`` if it ended).

    ``farewell`` has ``FAREWELL_S`` seconds and comes first, while ``work`` still keeps its links up; then
    ``work`` is cancelled. Stop signals that come meanwhile change nothing. What ``work`` raises is raised
    here, after the farewell.
    """
    async with _stop_words(stop_on_stdin_eof=stop_on_stdin_eof) as word:
        task = asyncio.ensure_future(work)
        either: set[asyncio.Future[Any]] = {task, word}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reason = word.result() if word.done() and not task.done() else FINISHED
            try:
                if farewell is not None:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(FAREWELL_S):
                            await farewell()
            finally:
                task.cancel()
                (outcome,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
            raise outcome
        return reason


@contextlib.asynccontextmanager
async def _stop_words(*, stop_on_stdin_eof: bool) -> AsyncIterator[asyncio.Future[str]]:
    loop = asyncio.get_running_loop()
    word: asyncio.Future[str] = loop.create_future()

    def say(reason: str) -> None:
        if not word.done():
            word.set_result(reason)

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, say, number.name)
    if _remembered:
        say(_remembered.pop(0))
        _remembered.clear()
    if stop_on_stdin_eof:
        _watch_stdin(loop, say)
    try:
        yield word
    finally:
        if stop_on_stdin_eof:
            loop.remove_reader(_STDIN)
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number])


def _watch_stdin(loop: asyncio.AbstractEventLoop, say: Callable[[str], None]) -> None:
    def readable() -> None:
        try:
            ended = not os.read(_STDIN, 4096)
        except BlockingIOError:
            return
        except OSError:
            ended = True
        if ended:
            loop.remove_reader(_STDIN)
            say(STDIN_ENDED)

    try:
        loop.add_reader(_STDIN, readable)
    except OSError:
        # A file, /dev/null or a closed descriptor cannot be waited for: nobody is at the other end.
        say(STDIN_ENDED)


def _remember(number: int, _frame: FrameType | None) -> None:
    _remembered.append(signal.Signals(number).name)
