"""A task as its author describes it, before it is converted; needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from shoal_codecs.wire.task import Ability, DType, InputDescription, TargetDescription, TrainingDefaults
from shoal_coordinator.authoring.compression import Teacher
from shoal_coordinator.authoring.errors import DescriptionError
from shoal_coordinator.authoring.layer import Layer, Run, Shape, Tensor, Tensors
from shoal_coordinator.authoring.losses import CrossEntropy, Loss
from shoal_coordinator.authoring.model import Model, build_model, narrow_layers
from shoal_coordinator.authoring.ops import Ops
from shoal_coordinator.authoring.optimisers import Optimiser, Sgd
from shoal_coordinator.authoring.task_rules import check_description

SEED = 2024


@dataclass(frozen=True)
class Input:
    """What one raw example is, and how the model scales it: (x - ``mean``) / ``deviation``.

    ``shape`` is without the batch axis; values are within ``minimum`` and ``maximum``. Tokens have
    ``dtype`` "int32" and are not scaled.
    """

    shape: Shape
    dtype: DType = "uint8"
    minimum: float = 0.0
    maximum: float = 255.0
    mean: float = 0.0
    deviation: float = 1.0

    @property
    def description(self) -> InputDescription:
        """What devices are told."""
        return InputDescription(tuple(self.shape), self.dtype, float(self.minimum), float(self.maximum))

    @property
    def tokens(self) -> bool:
        """Whether examples are int32 tokens, fed as they are."""
        return self.dtype == "int32"


@dataclass(frozen=True)
class Task:
    """A whole task: model, loss, optimiser, default plan and what training shall be able to do.

    ``prox`` gives the ability ``mu`` (FedProx), ``correction`` that of SCAFFOLD, ``private`` DP-SGD.
    ``local`` names layers, or parameters, that stay on devices. ``widths`` are the shares of width of
    narrower variants. ``teacher`` is a frozen model that training also follows. ``examples`` is a batch (x,
    y) of raw examples for the reference, at most a few; random ones where it is left away. ``seed`` draws
    the weights of the reference.
    """

    name: str
    input: Input
    layers: Sequence[Layer]
    labels: tuple[str, ...] = ()
    loss: Loss = field(default_factory=CrossEntropy)
    optimiser: Optimiser = field(default_factory=Sgd)
    defaults: TrainingDefaults = field(default_factory=TrainingDefaults)
    prox: bool = False
    correction: bool = False
    private: bool = False
    local: tuple[str, ...] = ()
    widths: tuple[float, ...] = ()
    teacher: Teacher | None = None
    examples: tuple[Any, Any] | None = field(default=None, compare=False)
    seed: int = SEED

    def __post_init__(self) -> None:
        # Refused now, not when a converter has run for a minute.
        check_description(self)

    @cached_property
    def model(self) -> Model:
        """The layers put together."""
        return build_model(self.layers, tuple(self.input.shape))

    @cached_property
    def target(self) -> TargetDescription:
        """What is learned."""
        return self.loss.target(self.model.output, self.labels)

    @cached_property
    def teaching(self) -> Model | None:
        """The teacher's layers put together."""
        return self.teacher.model(tuple(self.input.shape), self.model.output) if self.teacher else None

    @property
    def abilities(self) -> tuple[Ability, ...]:
        """What training takes besides examples and learning rate."""
        having: dict[Ability, bool] = {
            "mu": self.prox,
            "seed": self.model.seeded,
            "correction": self.correction,
        }
        return tuple(name for name, there in having.items() if there)

    @property
    def local_parameters(self) -> tuple[str, ...]:
        """Full names of the parameters that stay on devices.

        Raises:
            DescriptionError: ``local`` names what is not there.
        """
        names = []
        for one in self.local:
            mine = [each.name for each in self.model.parameters if one == each.name]
            for placed in self.model.placed:
                mine += [each.name for each in placed.parameters if placed.name == one]
            if not mine:
                known = ", ".join(placed.name for placed in self.model.placed if placed.parameters)
                raise DescriptionError(f"local names {one!r}: name a layer with parameters ({known})")
            names += mine
        return tuple(dict.fromkeys(names))

    def scaled(self, ops: Ops, x: Tensor) -> Tensor:
        """Return raw examples ``x`` (n, ...) as the first layer gets them."""
        if self.input.tokens:
            return x
        factor = 1 / self.input.deviation
        return ops.affine(x, factor, -self.input.mean * factor)

    def outputs(self, run: Run, p: Tensors, x: Tensor) -> Tensor:
        """Return the last layer's output for raw examples ``x`` (n, ...) with parameters ``p``."""
        return self.model.forward(run, p, self.scaled(run.ops, x))

    def training_losses(self, run: Run, p: Tensors, x: Tensor, y: Tensor) -> Tensor:
        """Return what training lowers for each example, (n, 1): the loss, and the teacher's with it."""
        output = self.outputs(run, p, x)
        losses = self.loss.per_example(run.ops, output, y)
        if self.teacher is None or self.teaching is None:
            return losses
        told = self.teaching.forward(Run(run.ops), {}, self.scaled(run.ops, x))
        return self.teacher.losses(run.ops, losses, output, run.ops.stop(told))

    def narrow(self, share: float) -> Task:
        """Return the same task with ``share`` of its width, without variants and DP-SGD."""
        return replace(self, layers=narrow_layers(self.layers, share), widths=(), private=False)
