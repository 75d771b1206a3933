"""Whether an interpreter computes what the task's author computed: loss, gradients, private gradients."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from shoal_codecs.wire.task import (
    GRADIENT_LEVELS,
    PrivateReference,
    TaskBundle,
    folded_sizes,
)
from shoal_edge.trainers.base import EvaluationCounts
from shoal_edge.trainers.errors import SelfTestError
from shoal_edge.trainers.private import noise_inputs

TOLERANCE = 1e-4
# Known noise, in clip norms: a graph that loses or scales what it is given is found.
_PROBE = 0.25
_LEAST_LENGTH = 1e-30
_REMEDY = "do not train here; install the pinned interpreter of shoal[edge]"


class Gradient(Protocol):
    """What a step on a batch follows, from the reference's weights."""

    def __call__(
        self, signature: str, /, x: npt.NDArray[Any], y: npt.NDArray[Any], **more: npt.NDArray[Any]
    ) -> npt.NDArray[np.float32]:
        """Return the vector (D,) that ``signature`` multiplies with the learning rate, on raw examples."""
        ...


def check_gradients(bundle: TaskBundle, counts: EvaluationCounts, found: npt.NDArray[np.float64]) -> None:
    """Compare ``counts`` and the folded gradient ``found`` of the stored batch with the reference.

    Raises:
        SelfTestError: this interpreter computes something else.
    """
    reference = bundle.reference
    scales = np.repeat(reference.scales, folded_sizes(bundle.parameters))
    # In levels, so that each parameter is measured by its own largest gradient.
    off = found / scales - reference.gradient.numpy()
    fault = float(np.abs(off).max() / GRADIENT_LEVELS)
    same_loss = math.isclose(counts.loss_sum, reference.loss_sum, rel_tol=TOLERANCE)
    if not fault <= TOLERANCE or not same_loss or counts.correct != reference.correct:
        raise SelfTestError(
            f"gradients are off by {fault:.1e} of a parameter's largest (at most {TOLERANCE:g}), loss "
            f"{counts.loss_sum:.6g} where {reference.loss_sum:.6g} is right: {_REMEDY}"
        )


def check_private(bundle: TaskBundle, private: PrivateReference, gradient: Gradient) -> None:
    """Compare ``train_private`` with each example's own gradient, and those with their stored lengths.

    Raises:
        SelfTestError: this interpreter computes something else.
    """
    x, y = bundle.reference.x.numpy(), bundle.reference.y.numpy()
    # One gradient at a time: together they would be the most that a device holds.
    lengths = np.zeros(len(y))
    wanted = np.zeros(bundle.dimension, np.float32)
    for n in range(len(y)):
        single = gradient("train", x=x[n : n + 1], y=y[n : n + 1])
        lengths[n] = np.linalg.norm(single)
        single *= np.float32(min(1.0, private.clip / max(lengths[n], _LEAST_LENGTH)))
        wanted += single
    # What is far under the clip norm is not shortened, and its last places may be rounding.
    if not np.allclose(lengths, private.norms, rtol=TOLERANCE, atol=TOLERANCE * private.clip):
        raise SelfTestError(
            f"an example's gradient is {lengths.max():.6g} long where {max(private.norms):.6g} is right: "
            f"{_REMEDY}"
        )
    probe = np.full(bundle.dimension, _PROBE * private.clip, np.float32)
    probe[1::2] *= -1
    clip = np.array([private.clip], np.float32)
    found = gradient("train_private", x=x, y=y, clip=clip, **noise_inputs(probe, bundle.parameters))
    found *= np.float32(len(y))
    found -= wanted
    found -= probe
    fault = float(np.abs(found, out=found).max() / private.clip)
    if not fault <= TOLERANCE:
        raise SelfTestError(
            f"private gradients are off by {fault:.1e} of the clip norm (at most {TOLERANCE:g}): {_REMEDY}"
        )
