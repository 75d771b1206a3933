"""What a worker holds between its jobs: the task that is ready, and the device's examples."""

from collections.abc import Callable
from pathlib import Path

from shoal_codecs.updates.slices import FULL
from shoal_codecs.wire.task import TaskBundle
from shoal_edge.data import Examples
from shoal_edge.sources.registry import Shards
from shoal_edge.sources.settings import unpack_data
from shoal_edge.sources.source import Wanted
from shoal_edge.trainers.base import OnProgress, unheard
from shoal_edge.worker_settings import DEFAULT_SETTINGS, WorkerSettings
from shoal_edge.worker_task import ReadyTask, level_within, read_task, refuse_wider

Stop = Callable[[], bool]


class WorkerState:
    """Of one worker with these ``settings``, whose fits tell ``on_progress`` how far they are."""

    def __init__(
        self, settings: WorkerSettings = DEFAULT_SETTINGS, on_progress: OnProgress = unheard
    ) -> None:
        self.settings = settings
        self.on_progress = on_progress
        self._task: ReadyTask | None = None
        self._within: tuple[bytes, int, int] = (b"", FULL, 0)
        self._shards = Shards()

    def ready(self, digest: bytes, path: str, level: int = 0, percent: int = FULL) -> ReadyTask:
        """Return the task in the file at ``path``, self-tested, as its model of ``level``.

        ``percent`` of the model's width is what this device takes at most.

        Raises:
            TaskFileError, InvalidTaskError: the file is not the task with ``digest``.
            WiderModelError, SliceShapeError: no such model, or not for this device.
            TrainingError: the model cannot be trained here.
        """
        if self._task is None or (self._task.digest, self._task.level) != (digest, level):
            if self._task is None or self._task.digest != digest:
                self._shards.forget()
            self._task = None
            task = read_task(Path(path), digest)
            refuse_wider(task, level, percent)
            self._task = ReadyTask(task, digest, level, self.settings)
        return self._task

    def ready_within(self, digest: bytes, path: str, percent: int) -> ReadyTask:
        """Return the task as the widest model that ``percent`` of the width allows; raises as ``ready``."""
        if percent == FULL:
            return self.ready(digest, path)
        if self._within[:2] != (digest, percent):
            self._within = digest, percent, level_within(read_task(Path(path), digest), percent)
        return self.ready(digest, path, self._within[2], percent)

    def let_go(self) -> None:
        """Give the memory of the task that is ready back."""
        self._task = None

    def examples(self, bundle: TaskBundle, data_path: str, data: bytes) -> tuple[Examples, Examples]:
        """Return (training, held-out) examples for ``bundle``, read again when the source changed.

        ``data`` is the packed table ``[data]`` of the settings.

        Raises:
            DataError: in which way they cannot be used.
        """
        return self._shards.read(unpack_data(data), Path(data_path), Wanted.by(bundle))
