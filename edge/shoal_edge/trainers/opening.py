"""Which trainer a device uses for a task."""

from __future__ import annotations

import msgspec

from shoal_codecs.wire.task import TaskBundle
from shoal_edge.trainers.base import Trainer
from shoal_edge.trainers.litert import LiteRtTrainer


class TrainerChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What the device's settings say of training: which trainer, and on how many threads."""

    kind: str = "auto"
    threads: int = 1


DEFAULT_CHOICE = TrainerChoice()


def open_trainer(bundle: TaskBundle, choice: TrainerChoice = DEFAULT_CHOICE) -> Trainer:
    """Return the trainer that ``choice`` names for ``bundle``.

    Raises:
        MissingRuntimeError: it is not installed.
        UnusableModelError, MissingSignatureError, TaskMismatchError: a model that cannot train.
    """
    return LiteRtTrainer(bundle, choice.threads)
