"""What a task's description may not ask for; each refusal says what to do instead."""

from __future__ import annotations

import math
import re
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, get_args

from shoal_codecs.wire.task import DType, TrainingDefaults
from shoal_coordinator.authoring.errors import DescriptionError, UnsupportedLayerError
from shoal_coordinator.authoring.layer import Layer
from shoal_coordinator.authoring.losses import Loss
from shoal_coordinator.authoring.model import check_narrow
from shoal_coordinator.authoring.optimisers import Optimiser

if TYPE_CHECKING:
    from shoal_coordinator.authoring.task import Input, Task

NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


def check_description(task: Task) -> None:
    """Refuse a description that no task can be made of.

    Raises:
        DescriptionError, UnsupportedLayerError: what is asked for, and what to ask for instead.
        LayerShapeError, LayerSettingError: layers that do not fit together.
    """
    _check_kinds(task)
    if not NAME.fullmatch(task.name):
        raise DescriptionError(f"task name {task.name!r}: use a-z, 0-9, . and -, at most 64 of them")
    _check_input(task.input)
    _check_tokens(task)
    if task.private:
        _check_private(task)
    # Each raises what is wrong with it.
    _ = task.target, task.teaching, task.local_parameters
    for share in task.widths:
        if not 0 < share < 1:
            raise DescriptionError(
                f"a width of {share:g}: name shares between 0 and 1, the full one is there"
            )
        check_narrow(task.model, task.narrow(share).model, share)


def _check_kinds(task: Task) -> None:
    """Refuse what is no part of a description at all: Python would say so in its own words, later."""
    described: dict[str, tuple[object, Any, str]] = {
        "name": (task.name, str, '"digits"'),
        "layers": (task.layers, (list, tuple), "[Flatten(), Dense(10)]"),
        "labels": (task.labels, (list, tuple), '("no", "yes")'),
        "loss": (task.loss, Loss, "CrossEntropy()"),
        "optimiser": (task.optimiser, Optimiser, "Sgd()"),
        "defaults": (task.defaults, TrainingDefaults, "TrainingDefaults(epochs=2)"),
        "local": (task.local, (list, tuple), '("dense2",)'),
        "widths": (task.widths, (list, tuple), "(0.5, 0.25)"),
    }
    for key, (value, kinds, example) in described.items():
        if not isinstance(value, kinds):
            raise DescriptionError(f"{key} is {value!r}: write it like {key}={example}")
    shape = getattr(task.input, "shape", None)
    if not isinstance(shape, list | tuple) or not all(isinstance(side, Integral) for side in shape):
        raise DescriptionError(
            f"input is {task.input!r}: give Input a whole number for each axis of one example, such as "
            "Input((8,)) or Input((28, 28, 1))"
        )
    for key in ("minimum", "maximum", "mean", "deviation"):
        # NumPy's numbers are as good: they come of an author's data.
        if not isinstance(getattr(task.input, key), Real):
            raise DescriptionError(f"the input's {key} is {getattr(task.input, key)!r}: give a number")
    if not all(isinstance(label, str) for label in task.labels):
        raise DescriptionError(f"labels are {task.labels!r}: give each a name, in quotes")
    if not all(isinstance(share, Real) for share in task.widths):
        raise DescriptionError(f"widths are {task.widths!r}: give shares between 0 and 1")


def _check_input(about: Input) -> None:
    if any(side < 1 for side in about.shape) or about.dtype not in get_args(DType):
        raise DescriptionError(
            f"input {about.shape} of {about.dtype}: sides are at least 1, dtype is one of "
            f"{', '.join(get_args(DType))}"
        )
    finite = all(map(math.isfinite, (about.minimum, about.maximum, about.mean)))
    if not finite or not about.minimum < about.maximum or not 0 < about.deviation < math.inf:
        raise DescriptionError("the input needs a minimum under its maximum and a positive deviation")
    if about.tokens and (about.mean != 0 or about.deviation != 1):
        raise DescriptionError("tokens (int32) are not scaled: leave mean and deviation away")


def _check_tokens(task: Task) -> None:
    for place, one in enumerate(task.model.placed):
        taking, wanted = _takes_tokens(one.layer), task.input.tokens and place == 0
        if taking and not wanted:
            raise UnsupportedLayerError(
                f"{one.title} takes tokens: put it first, with an Input of dtype int32"
            )
        if wanted and not taking:
            raise UnsupportedLayerError(
                f"{one.title} takes no tokens: begin with Embedding(), or give the Input another dtype"
            )


def _takes_tokens(layer: Layer) -> bool:
    """Whether ``layer``, or the one that it wraps, does."""
    inner = getattr(layer, "layer", None)
    return layer.TAKES_TOKENS or (isinstance(inner, Layer) and _takes_tokens(inner))


def _check_private(task: Task) -> None:
    if not task.optimiser.ALONG_GRADIENT:
        raise DescriptionError(
            f"private=True goes with Sgd() and Momentum(), not with {type(task.optimiser).__name__}: no "
            "device could test what became of its clipped gradients"
        )
    if task.teacher:
        raise DescriptionError("private=True and a teacher do not go together: leave one away")
    for one in task.model.placed:
        if one.layer.MOVES:
            raise UnsupportedLayerError(
                f"{one.title} remembers what no noise protects, so that it does not go with private=True: "
                "use LayerNorm()"
            )
        if one.parameters and type(one.layer).squares is Layer.squares:
            raise one.layer.refuse_private()
