"""The agent's side of the worker: started when something heavy is to be done, ended when nothing is.

One request at a time. A worker that crashes or takes too long is a named error of that request; the next
request starts a new one.
"""

import asyncio
import contextlib
import os
import signal
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import structlog

from shoal_edge.errors import (
    WorkerCrashedError,
    WorkerFrameError,
    WorkerMemoryError,
    WorkerRefusedError,
    WorkerStartError,
    WorkerTimeLimitError,
)
from shoal_edge.trainers.base import OnProgress, unheard
from shoal_edge.worker_frames import HEADER, decode_worker_frame, encode_worker_frame, frame_length
from shoal_edge.worker_settings import DEFAULT_SETTINGS

COMMAND = DEFAULT_SETTINGS.command
END_S = 2.0
LAST_WORDS_BYTES = 2000
_WANT_OF_MEMORY = ("bad_alloc", "Memory allocation", "Cannot allocate memory")
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}

log = structlog.get_logger()


class Worker(ABC):
    """What an agent asks to do the heavy things: a process of its own, or one that it shares."""

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """The process that works for this agent now, if one does."""

    @abstractmethod
    async def request(
        self, do: str, limit_s: float, on_progress: OnProgress = unheard, /, **arguments: Any
    ) -> dict[str, Any]:
        """Return the worker's answer to ``do``; a cancelled caller goes at once, and the worker stays.

        What it was asked is not begun any more; a fit that is ends before its next step.
        ``on_progress`` hears steps done and steps in all, now and then.

        Raises:
            WorkerRefusedError: the worker met a fault, named in ``fault``.
            WorkerTimeLimitError, WorkerCrashedError, WorkerStartError: there is no answer.
        """

    @abstractmethod
    async def warm(self) -> None:
        """Start the worker so that it loads while the agent does something else."""

    @abstractmethod
    async def close(self) -> None:
        """End what works for this agent alone."""

    async def evaluate_artefact(
        self,
        candidate: Path,
        replaced: Path | None,
        data: Path,
        limit_s: float = 120.0,
        *,
        source: bytes = b"",
        task: Path | None = None,
        own: Path | None = None,
    ) -> dict[str, Any]:
        """Count deployable models on this device's held-out examples, at ``data`` as ``source`` describes.

        ``own`` is where the device keeps tensors of its own.
        Returns the fields of ``shoal_codecs.ota.health.PairedCounts``, for ``health_check.read_counts``.
        """
        return await self.request(
            "evaluate_artefact",
            limit_s,
            candidate_path=str(candidate),
            replaced_path=str(replaced) if replaced else "",
            data_path=str(data),
            data=source,
            task_path=str(task or ""),
            own_path=str(own or ""),
        )


LEAVING_DAMAGE = frozenset({"FitMemoryError"})
"""Faults after which a worker is not asked again: an interpreter whose planning failed spoils its memory."""


class WorkerClient(Worker):
    """Starts, asks and ends the worker; ``idle_s`` seconds without a request end it."""

    def __init__(self, idle_s: float, command: tuple[str, ...] = COMMAND) -> None:
        self._idle_s = idle_s
        self._command = command
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._last_words = bytearray()
        self._header = b""
        self._listener: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._numbers = 0

    @property
    def pid(self) -> int | None:
        """The worker's process id while there is one."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def request(
        self, do: str, limit_s: float, on_progress: OnProgress = unheard, /, **arguments: Any
    ) -> dict[str, Any]:
        """Return the worker's answer to ``do``; a cancelled caller goes at once, and the worker stays.

        What it was asked is not begun any more; a fit that is ends before its next step.
        ``on_progress`` hears steps done and steps in all, now and then.

        Raises:
            WorkerRefusedError: the worker met a fault, named in ``fault``.
            WorkerTimeLimitError, WorkerCrashedError, WorkerStartError: there is no answer.
        """
        async with self._turn:
            process = await self._started()
            self._numbers += 1
            number = self._numbers
            try:
                async with asyncio.timeout(limit_s):
                    answer = await self._exchange(process, {"id": number, "do": do} | arguments, on_progress)
            except TimeoutError:
                await self._kill()
                raise WorkerTimeLimitError(
                    f"{do} took over {limit_s:g} s: raise its limit, or give the device less to do"
                ) from None
            except asyncio.CancelledError:
                # The worker stays: where it takes longer to start than rounds follow each other, it would
                # never be up. The next request passes over the answer to this one.
                self._leave(process, number)
                raise
            except (WorkerFrameError, OSError, EOFError) as error:
                raise await self._crash(do) from error
            finally:
                self._schedule_end()
            if answer.get("fault") in LEAVING_DAMAGE:
                await self._kill()
        if "fault" in answer:
            raise WorkerRefusedError(str(answer["fault"]), str(answer["text"]))
        return dict(answer["ok"])

    async def warm(self) -> None:
        """Start the worker so that it loads while the agent does something else."""
        async with self._turn:
            await self._started()
            self._schedule_end()

    async def close(self) -> None:
        """End the worker now."""
        if self._idle:
            self._idle.cancel()
        await self._kill()
        await asyncio.gather(*self._ending, return_exceptions=True)

    # --- inside ---------------------------------------------------------------------------------

    def _leave(self, process: asyncio.subprocess.Process, number: int) -> None:
        if process.stdin is not None:
            with contextlib.suppress(OSError, RuntimeError):
                process.stdin.write(encode_worker_frame({"id": number, "do": "cancel"}))

    async def _exchange(
        self, process: asyncio.subprocess.Process, content: dict[str, Any], on_progress: OnProgress
    ) -> dict[str, Any]:
        if process.stdin is None or process.stdout is None:
            raise WorkerFrameError("the worker has no pipes: report this as a defect")
        process.stdin.write(encode_worker_frame(content))
        await process.stdin.drain()
        while True:
            # Kept, so that a caller who is cancelled between header and content leaves the pipe in step.
            self._header = self._header or await process.stdout.readexactly(HEADER.size)
            data = await process.stdout.readexactly(frame_length(self._header))
            self._header = b""
            answer = decode_worker_frame(data)
            if answer.get("id") != content["id"]:
                continue
            if "progress" not in answer:
                return answer
            done, total = answer["progress"]
            on_progress(int(done), int(total))

    async def _started(self) -> asyncio.subprocess.Process:
        if self._idle:
            self._idle.cancel()
            self._idle = None
        if self._process is not None and self._process.returncode is None:
            return self._process
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=os.environ | _ONE_THREAD,
            )
        except OSError as error:
            raise WorkerStartError(f"cannot start {self._command[0]}: {error.strerror}") from error
        self._last_words.clear()
        self._header = b""
        self._listener = asyncio.create_task(self._listen(self._process))
        log.debug("worker_started", pid=self._process.pid)
        return self._process

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        """Keep the end of what the worker writes to standard error: a crash explains itself there."""
        if process.stderr is None:
            return
        while data := await process.stderr.read(LAST_WORDS_BYTES):
            self._last_words += data
            del self._last_words[:-LAST_WORDS_BYTES]

    async def _crash(self, do: str) -> WorkerCrashedError:
        process, listener = self._process, self._listener
        if process is not None:
            # Its own end tells more than the signal that would end it.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_S):
                    await process.wait()
        await self._kill()
        code = process.returncode if process else None
        if listener is not None:
            await asyncio.wait({listener}, timeout=END_S)
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"code {code}"
        lines = self._last_words.decode(errors="replace").strip().splitlines()
        said = f": {lines[-1][:200]}" if lines else ""
        if any(word in line for line in lines for word in _WANT_OF_MEMORY):
            return WorkerMemoryError(
                f"the worker ended with {how} during {do}, for want of memory: give it a smaller task "
                "or batch_size, or raise fit_memory_limit_bytes"
            )
        return WorkerCrashedError(
            f"the worker ended with {how} during {do}{said}; the next round starts anew"
        )

    def _schedule_end(self) -> None:
        if self._process is not None and self._process.returncode is None:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(self._idle_s, self._end_idle)

    def _end_idle(self) -> None:
        self._idle = None
        task = asyncio.get_running_loop().create_task(self._end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self) -> None:
        async with self._turn:
            # A request that came first has set the timer again.
            if self._idle is None:
                await self._kill()

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            # Not process.kill(), which reaps a process that has just ended before asyncio's watcher does.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            await process.wait()
        if process.stdin is not None:
            process.stdin.close()
