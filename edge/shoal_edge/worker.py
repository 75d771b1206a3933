"""The heavy half of an agent in a process of its own: ``python -m shoal_edge.worker``.

numpy, interpreter and ciphers are loaded here and nowhere else, each with the first job that needs it:
an idle agent gives all their memory back by ending this process. It reads frames from standard input,
answers on standard output, and ends when the input ends, however the agent ended. It holds no identity key.
"""

import os
import queue
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from shoal_codecs.errors import ShoalError
from shoal_codecs.memory import keep_freed_memory
from shoal_edge.errors import WorkerFrameError
from shoal_edge.jobs.registry import job, load
from shoal_edge.worker_frames import encode_worker_frame, read_worker_frame
from shoal_edge.worker_settings import WorkerSettings, limit_memory, settings_of

if TYPE_CHECKING:
    from shoal_edge.jobs.state import WorkerState

PROGRESS_S = 1.0
"""A fit tells how far it is at most this often."""


class Worker:
    """Answers one request after the other; a reader thread hears of cancellations meanwhile."""

    def __init__(self, source: BinaryIO, sink: BinaryIO, settings: WorkerSettings) -> None:
        self._source = source
        self._sink = sink
        self._settings = settings
        self._number = 0
        self._told_at = 0.0
        self._requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._cancelled: set[int] = set()

    def run(self) -> None:
        """Serve until the source ends, which ends the process."""
        threading.Thread(target=self._read, name="worker-reader", daemon=True).start()
        # Heavy, and wanted soon: loaded while the agent still fetches. What others need comes with them.
        load("fit_and_report")
        from shoal_edge.jobs.state import WorkerState  # noqa: PLC0415

        state = WorkerState(self._settings, self._progress)
        # After what every worker loads: the rest is what the work takes.
        limit_memory(self._settings.memory_limit_bytes)
        while True:
            request = self._requests.get()
            self._say(self._answer(state, request))

    def _say(self, content: dict[str, Any]) -> None:
        self._sink.write(encode_worker_frame(content))
        self._sink.flush()

    def _progress(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._told_at >= PROGRESS_S:
            self._told_at = now
            self._say({"id": self._number, "progress": [done, total]})

    def _answer(self, state: "WorkerState", request: dict[str, Any]) -> dict[str, Any]:
        self._number = number = int(request.pop("id", 0))
        do, self._told_at = str(request.pop("do", "")), time.monotonic()
        if number in self._cancelled:
            self._cancelled.discard(number)
            return {"id": number, "fault": "FitCancelledError", "text": "cancelled before it was begun"}
        try:
            found = job(state, do)
            return {"id": number, "ok": found(**request, should_stop=lambda: number in self._cancelled)}
        except ShoalError as error:
            return {"id": number, "fault": type(error).__name__, "text": str(error)}
        except Exception as error:  # noqa: BLE001 - one bad request must not end the worker
            if self._is_for_memory(error):
                text = "this task needs more memory than is free, or than memory_limit_bytes allows"
                return {"id": number, "fault": "FitMemoryError", "text": text}
            # The text of a foreign error may quote data; its type and place do not.
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(last.filename).name}:{last.lineno}"
            kind = type(error).__name__
            text = f"unexpected {kind} at {where}: report this as a defect"
            return {"id": number, "fault": kind, "text": text}
        finally:
            self._cancelled.discard(number)

    def _is_for_memory(self, error: Exception) -> bool:
        """Return whether memory is what a job lacked."""
        if isinstance(error, ImportError) and self._settings.memory_limit_bytes:
            # So the loader says that a library, which a job loads when it needs it, finds no room.
            return not isinstance(error, ModuleNotFoundError)
        return isinstance(error, MemoryError)

    def _read(self) -> None:
        try:
            while (frame := read_worker_frame(self._source)) is not None:
                if frame.get("do") == "cancel":
                    self._cancelled.add(int(frame["id"]))
                else:
                    self._requests.put(frame)
        except (WorkerFrameError, OSError):
            os._exit(1)
        except MemoryError:
            # A frame that the limit does not allow: a worker that hears no more must not stay.
            os.write(2, b"MemoryError: Cannot allocate memory for a request\n")
            os._exit(1)
        # Not sys.exit: the main thread may be in the middle of a fit that nobody waits for any more.
        os._exit(0)


def main() -> None:
    """Serve the agent that started this process."""
    # Ctrl-C reaches the whole process group; the agent ends the worker in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Libraries that print must not print into the frames.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    keep_freed_memory()
    Worker(sys.stdin.buffer, answers, settings_of(sys.argv[1:])).run()


if __name__ == "__main__":
    main()
