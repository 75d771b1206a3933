"""Which trainer a device uses for a task."""

from __future__ import annotations

from shoal_codecs.wire.task import TaskBundle
from shoal_edge.trainers.base import Trainer, TrainerKind
from shoal_edge.trainers.litert import LiteRtTrainer


def open_trainer(bundle: TaskBundle, kind: TrainerKind = "auto", threads: int = 1) -> Trainer:
    """Return the trainer of ``kind`` for ``bundle``, on ``threads`` threads.

    Raises:
        MissingRuntimeError: it is not installed.
        UnusableModelError, MissingSignatureError, TaskMismatchError: a model that cannot train.
    """
    del kind
    return LiteRtTrainer(bundle, threads)
