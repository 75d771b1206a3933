"""What of a round stays on the device: read before a fit, left beside after it. Worker only: needs numpy."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from shoal_codecs.updates.shared_part import SharedPart
from shoal_codecs.wire.plan import Plan
from shoal_codecs.wire.task import dimension
from shoal_edge.data import Examples
from shoal_edge.errors import ModelDimensionError
from shoal_edge.fitting import Fitted
from shoal_edge.own_tensors import begun, read_own, write_own
from shoal_edge.personal_fit import fit_personal
from shoal_edge.trainers.base import RandomSource, Trainer
from shoal_edge.vectors import Vector
from shoal_edge.worker_task import ReadyTask


class OwnRound:
    """The round of ``plan`` on the model that is ``ready``; what is kept is read at ``path``.

    Raises:
        LocalParameterError: the plan keeps parameters here that the task does not have.
        ModelDimensionError: it is for another number of parameters than the task shares.
        StoreError: the disk does not give what is kept.
    """

    def __init__(self, ready: ReadyTask, plan: Plan, path: Path) -> None:
        self.part = SharedPart(ready.bundle.parameters, plan.training.local)
        self._cut = ready.cut
        self._shared = dimension(ready.cut.full) if ready.cut else self.part.dimension
        if plan.codec.dimension != self._shared:
            raise ModelDimensionError(
                f"the plan is for {plan.codec.dimension} parameters, the task shares {self._shared}: "
                "plan anew"
            )
        self._bundle = ready.bundle
        self._plan = plan
        self._training = plan.training
        self._own = read_own(path)

    def base(self, vector: Vector) -> Vector:
        """Return all weights (D,) that the fit begins with: the fleet's ``vector`` and this device's own.

        Raises:
            ModelDimensionError: a vector of another task.
        """
        if vector.size != self._shared:
            raise ModelDimensionError(
                f"the model has {vector.size} parameters, the task shares {self._shared}: plan anew"
            )
        if self._cut is not None:
            return self._cut.cut(vector)
        return self.part.joined(vector, begun(self.part, self._own, self._bundle))

    @property
    def size(self) -> tuple[int, int]:
        """How long the vector is that the codec codes, and how many of its coordinates travel."""
        codec = self._plan.codec
        if self._cut is None or not self._plan.sliced:
            return codec.dimension, codec.kept
        return self._cut.dimension, self._cut.kept(codec.kept)

    def sent(self, update: Vector) -> Vector:
        """Return the vector that the codec codes: a variant's update in the full model's place if need be."""
        return update if self._cut is None or self._plan.sliced else self._cut.spread(update)

    def keeps(self, pull: float) -> bool:
        """Return whether ``leave`` with this ``pull`` wants to know the weights after a fit."""
        return bool(self.part.own or pull)

    def leave(
        self,
        path: Path,
        fitted: Fitted,
        train: Callable[[], Examples],
        trainer: Trainer,
        base: Callable[[], Vector],
        pull: float,
        rng: RandomSource,
        should_stop: Callable[[], bool],
    ) -> dict[str, Any]:
        """Leave at ``path`` what the fit made of the device's own; with ``pull`` train its own model first.

        Returns what is worth a line in the device's log.

        Raises:
            FitCancelledError: ``should_stop`` said so.
            StoreError: the disk does not take it.
        """
        said: dict[str, Any] = {"own_tensors": "damaged, begun anew"} if self._own.damaged else {}
        if fitted.weights is None or not self.keeps(pull):
            return said
        following = replace(self._own, tensors=self.part.own_of(fitted.weights))
        if pull:
            made = fit_personal(
                trainer, base(), self._own.personal, train(), self._training, pull, rng, should_stop
            )
            said |= made.said
            if made.model is not None:
                following = replace(following, personal=made.model)
        write_own(path, following)
        return said
