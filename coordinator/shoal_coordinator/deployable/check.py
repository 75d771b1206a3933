"""The proof that a task can be deployed: its artefacts answer as its own ``infer`` does."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from shoal_codecs.wire.task import TaskBundle, initial_weights, split_weights
from shoal_coordinator.artefact_errors import UndeployableTaskError
from shoal_coordinator.artefacts import answers, make_artefacts
from shoal_coordinator.deployable.templates import Templates, make_templates

TOLERANCE = 1e-5
"""Of the largest answer, at least of 1."""
# What no quantisation can excuse, of the distance between the largest and the least answer.
_INT8_TOLERANCE = 0.25
_MOVED = 0.05
_LEAST_SPREAD = 0.05


def check_deployable(bundle: TaskBundle) -> Templates:
    """Return the templates of ``bundle`` if its artefacts answer as its ``infer`` does.

    Raises:
        UndeployableTaskError: they answer something else.
        UnsupportedGraphError: no artefact can be made of ``infer``.
    """
    templates = make_templates(bundle)
    start = initial_weights(bundle.parameters, bundle.reference.seed)
    # Biases begin at zero, where a place that was mixed up may hide: everything is moved.
    moved = start + np.random.default_rng(1).normal(0, _MOVED, start.shape).astype(np.float32)
    x = bundle.reference.x.numpy()
    made = make_artefacts(templates, moved, x)
    wanted = infer(bundle, moved, x)
    size = max(1.0, float(np.abs(wanted).max()))
    fault = float(np.abs(answers(made.float32, x) - wanted).max()) / size
    if not fault <= TOLERANCE:
        raise UndeployableTaskError(
            f"task {bundle.name}: the float artefact is off by {fault:.1e} of the largest answer, at most "
            f"{TOLERANCE:g}: report this as a defect, with the task"
        )
    # An untrained model's probabilities are all alike.
    spread = max(float(np.ptp(wanted)), _LEAST_SPREAD if templates.labels else TOLERANCE)
    fault = float(np.abs(answers(made.int8, x) - wanted).max()) / spread
    if not fault <= _INT8_TOLERANCE:
        raise UndeployableTaskError(
            f"task {bundle.name}: the int8 artefact is off by {fault:.0%} of the answers' range, at most "
            f"{_INT8_TOLERANCE:.0%}: scale the values inside the model alike, or release it as float32"
        )
    if bundle.local:
        make_templates(bundle, bundle.local)
    return templates


def infer(
    bundle: TaskBundle, weights: npt.NDArray[np.float32], x: npt.NDArray[Any]
) -> npt.NDArray[np.float32]:
    """Return what the task's own ``infer`` answers (n, ...) to raw examples ``x`` with ``weights`` (D,)."""
    interpreter = Interpreter(
        model_content=bundle.trainable,
        num_threads=1,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.get_signature_runner("set_weights")(**split_weights(weights, bundle.parameters))
    runner = interpreter.get_signature_runner("infer")
    found = runner(x=x.astype(np.int32 if bundle.input.dtype == "int32" else np.float32))
    answer: npt.NDArray[np.float32] = found["probabilities" if bundle.target.kind == "label" else "values"]
    return answer
