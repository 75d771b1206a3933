"""A task ready to train, in full or as one of its variants. Worker only: needs numpy and LiteRT."""

from pathlib import Path

from shoal_codecs.memory import give_back_freed_memory
from shoal_codecs.updates.slices import ModelLevels
from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.task import TaskBundle, decode_task
from shoal_edge.errors import TaskFileError, WiderModelError
from shoal_edge.trainers.opening import open_trainer
from shoal_edge.worker_settings import WorkerSettings


def read_task(path: Path, digest: bytes) -> TaskBundle:
    """Return the task in the file at ``path``.

    Raises:
        TaskFileError: it is not the one with ``digest``.
        InvalidTaskError: it is no task.
    """
    data = path.read_bytes() if path.is_file() else b""
    if digest_of(data) != digest:
        raise TaskFileError("the task on disk is damaged: fetch it again")
    task = decode_task(data)
    del data
    # Its packed forms, which may be larger than what they became.
    give_back_freed_memory()
    return task


class ReadyTask:
    """The model of ``level`` (0: the full one) of a task: decoded, its interpreter tested.

    ``bundle`` is the task with this model, ``cut`` which part of the full model that is, None for all.

    Raises:
        SliceShapeError: the task has no such level.
        TrainingError: the model cannot be trained here.
    """

    def __init__(self, task: TaskBundle, digest: bytes, level: int, settings: WorkerSettings) -> None:
        levels = ModelLevels(task)
        self.digest = digest
        self.level = level
        self.cut = levels.slice_of(level)
        # What the full model's flatbuffer takes is let go where a narrower one is trained.
        self.bundle = levels.bundle_of(level)
        self.trainer = open_trainer(self.bundle, settings.trainer, settings.threads)
        self.trainer.self_test()
        give_back_freed_memory()


def refuse_wider(task: TaskBundle, level: int, percent: int) -> None:
    """Refuse a model wider than ``percent`` of the width, which this device takes; 0: it has yet to measure.

    Raises:
        WiderModelError: with both widths.
        SliceShapeError: the task has no such level.
    """
    levels = ModelLevels(task)
    levels.slice_of(level)
    most = levels.level_for(percent)
    width = 0 if most is None else levels.percents[most]
    if levels.percents[level] > width:
        raise WiderModelError(
            f"the plan gives this device {levels.percents[level]} % of the model's width, it takes "
            f"{percent or min(levels.percents)} %: see what its heartbeats say, or raise `width`"
        )


def level_within(task: TaskBundle, percent: int) -> int:
    """Return the widest level of ``task`` that ``percent`` of the width allows; 0 where none is."""
    return ModelLevels(task).level_for(percent) or 0
