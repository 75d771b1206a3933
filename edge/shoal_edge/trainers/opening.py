"""Which trainer a device uses for a task."""

from __future__ import annotations

import importlib.util

from shoal_codecs.wire.task import TaskBundle
from shoal_edge.trainers.base import Trainer, TrainerKind
from shoal_edge.trainers.runtime import has_interpreter


def open_trainer(bundle: TaskBundle, kind: TrainerKind = "auto", threads: int = 1) -> Trainer:
    """Return the trainer of ``kind`` for ``bundle``, on ``threads`` threads.

    ``auto`` is LiteRT, which is the smaller and the faster one; PyTorch only where there is no interpreter.

    Raises:
        MissingRuntimeError: it is not installed.
        UnusableModelError, MissingSignatureError, TaskMismatchError: a model that cannot train.
        NoArchitectureError, UnknownLayerError: a model that only LiteRT can train.
    """
    if kind == "torch" or (kind == "auto" and not has_interpreter() and has_torch()):
        # Hundreds of megabytes, for who asks for them.
        from shoal_edge.trainers.pytorch import TorchTrainer  # noqa: PLC0415

        return TorchTrainer(bundle, threads)
    from shoal_edge.trainers.litert import LiteRtTrainer  # noqa: PLC0415

    return LiteRtTrainer(bundle, threads)


def has_torch() -> bool:
    """Return whether PyTorch is installed, without loading it."""
    return importlib.util.find_spec("torch") is not None
