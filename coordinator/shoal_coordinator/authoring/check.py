"""The proof that a converted model trains as its description says: run in LiteRT, compared with float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

from shoal_codecs.wire.task import (
    GRADIENT_FLOOR,
    REFERENCE_MASK_SEED,
    REFERENCE_RATE,
    PrivateReference,
    initial_weights,
    split_weights,
)
from shoal_coordinator.authoring.errors import GradientMismatchError
from shoal_coordinator.authoring.reference import Batch, Float64Steps, Float64Twin, Vector
from shoal_coordinator.authoring.task import Task

TOLERANCE = 5e-5
"""Half of what devices allow; of a parameter's largest gradient."""
STEPS = 3
RATE = 0.05
MU = 0.3
_PROBE = 0.25


class Converted:
    """A converted task in an interpreter of one thread."""

    def __init__(self, task: Task, model: bytes) -> None:
        self._task, self.model = task, model
        interpreter = Interpreter(model_content=model, num_threads=1)
        self._runners = {
            name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()
        }

    def __contains__(self, signature: str) -> bool:
        return signature in self._runners

    def call(self, signature: str, **inputs: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """Run one signature."""
        outputs: dict[str, npt.NDArray[Any]] = self._runners[signature](**inputs)
        return outputs

    def fed(self, batch: Batch) -> dict[str, npt.NDArray[Any]]:
        """Return raw examples and targets as inputs."""
        x, y = batch
        return {"x": x.astype(np.int32 if self._task.input.tokens else np.float32), "y": y}

    def seeded(self, seed: int) -> dict[str, npt.NDArray[Any]]:
        """Return the input that draws masks, where there is one."""
        return {"seed": np.array([seed], np.int32)} if self._task.model.seeded else {}

    def set(self, vector: npt.NDArray[np.float32], signature: str = "set_weights") -> None:
        """Give ``signature`` the weights (D,)."""
        self.call(signature, **split_weights(vector, self._task.model.parameters))

    def weights(self, signature: str = "get_weights", **inputs: Any) -> Vector:
        """Return weights (D,) that ``signature`` tells."""
        parts = self.call(signature, **inputs)
        flat = [parts[one.name].reshape(-1) for one in self._task.model.parameters]
        return np.concatenate(flat).astype(np.float64)

    def gradient(
        self, start: npt.NDArray[np.float32], batch: Batch, seed: int = REFERENCE_MASK_SEED
    ) -> Vector:
        """Return what a step follows (D,), told by the model or read off one."""
        self.set(start)
        inputs = {**self.fed(batch), **self.seeded(seed)}
        if "gradients" in self:
            return self.weights("gradients", **inputs)
        self.call("train", **inputs, lr=np.array([REFERENCE_RATE], np.float32))
        return (start.astype(np.float64) - self.weights()) / REFERENCE_RATE

    def pull(self, mu: float) -> dict[str, npt.NDArray[np.float32]]:
        """Return FedProx's input of ``train_pulled``, where there is one."""
        return {"mu": np.array([mu], np.float32)} if self._task.prox else {}


def check_converted(task: Task, model: bytes, batch: Batch, private: PrivateReference | None) -> None:
    """Compare everything ``model`` computes with float64 automatic differentiation, in LiteRT.

    Raises:
        GradientMismatchError: it computes something else.
    """
    ran, twin = Converted(task, model), Float64Twin(task)
    start = initial_weights(task.model.parameters, task.seed)
    # Biases begin at zero, where a wrong gradient may hide: everything is moved a little.
    moved = start + np.random.default_rng(task.seed).normal(0, 0.01, start.shape).astype(np.float32)
    for vector in (start, moved):
        _check_evaluation(ran, twin, vector, batch, task)
        _compare(task, ran.gradient(vector, batch), twin.followed(vector, batch), "gradient")
    _check_steps(ran, twin, start, batch, task)
    if private is not None:
        _check_private(ran, twin, start, batch, task, private)


def _check_evaluation(
    ran: Converted, twin: Float64Twin, vector: npt.NDArray[np.float32], batch: Batch, task: Task
) -> None:
    ran.set(vector)
    found, wanted = ran.call("evaluate", **ran.fed(batch)), twin.expected(vector, batch)
    same = np.isclose(found["loss_sum"][0], wanted.loss_sum, rtol=TOLERANCE)
    if not same or int(found["correct"][0]) != wanted.correct:
        raise GradientMismatchError(
            f"task {task.name}: loss {found['loss_sum'][0]:.6g} and {int(found['correct'][0])} right, where "
            f"float64 finds {wanted.loss_sum:.6g} and {wanted.correct}: a layer computes something else"
        )


def _check_steps(
    ran: Converted, twin: Float64Twin, start: npt.NDArray[np.float32], batch: Batch, task: Task
) -> None:
    """Several steps, plain ones first, then with FedProx and a correction where the task has them."""
    ran.set(start)
    nothing = np.zeros(len(start))
    _follow(ran, twin, batch, task, Float64Steps(task, start, lr=RATE, mu=0.0, correction=nothing))
    if not task.prox and not task.correction:
        return
    ran.set(start)
    correction = nothing
    if task.correction:
        drawn = np.random.default_rng(1).normal(0, 0.05, len(start)).astype(np.float32)
        correction = drawn.astype(np.float64)
        ran.set(drawn, "set_correction")
    mu = MU if task.prox else 0.0
    steps = Float64Steps(task, start, lr=RATE, mu=mu, correction=correction)
    _follow(ran, twin, batch, task, steps, "train_pulled", **ran.pull(mu))


def _follow(
    ran: Converted,
    twin: Float64Twin,
    batch: Batch,
    task: Task,
    steps: Float64Steps,
    signature: str = "train",
    **more: npt.NDArray[Any],
) -> None:
    """Compare the weights after each step of ``signature``."""
    told = Converted(task, ran.model) if not task.optimiser.ALONG_GRADIENT else None
    vector = before = ran.weights()
    for step in range(1, STEPS + 1):
        if told is not None:
            # Adam makes whole steps of what is rounding alone: it is followed along the model's own gradient.
            vector = before = ran.weights()
        gradient, moved = twin.gradient_and_moves(vector, batch, step)
        if told is not None:
            gradient = told.gradient(vector.astype(np.float32), batch, step)
        lr = np.array([RATE], np.float32)
        ran.call(signature, **ran.fed(batch), lr=lr, **more, **ran.seeded(step))
        vector = steps.step(vector, gradient, moved)
        what = f"way to step {step} of {signature}"
        _compare(task, ran.weights() - before, vector - before, what, tolerance=10 * TOLERANCE)


def _check_private(
    ran: Converted,
    twin: Float64Twin,
    start: npt.NDArray[np.float32],
    batch: Batch,
    task: Task,
    private: PrivateReference,
) -> None:
    """Clipped and noised gradients against each example's own."""
    rows = zip(*batch, strict=True)
    singles = np.stack([twin.gradient(start, (x[None], y[None])) for x, y in rows])
    noise = np.full(len(start), _PROBE * private.clip, np.float32)
    noise[1::2] *= -1
    ran.set(start)
    named = {f"noise_{name}": one for name, one in split_weights(noise, task.model.parameters).items()}
    clip = np.array([private.clip], np.float32)
    lr = np.array([1.0], np.float32)
    ran.call("train_private", **ran.fed(batch), lr=lr, clip=clip, **named, **ran.seeded(REFERENCE_MASK_SEED))
    kept = np.minimum(1.0, private.clip / np.linalg.norm(singles, axis=1))
    wanted = (kept @ singles + noise) / len(batch[1])
    _compare(task, start - ran.weights(), wanted, "private gradient")


def _compare(task: Task, found: Vector, wanted: Vector, what: str, tolerance: float = TOLERANCE) -> None:
    """Measure each parameter by its own largest entry."""
    parameters = task.model.parameters
    least = float(np.abs(wanted).max()) * GRADIENT_FLOOR
    mine = split_weights(found, parameters)  # type: ignore[arg-type]
    for name, right in split_weights(wanted, parameters).items():  # type: ignore[arg-type]
        largest = max(float(np.abs(right).max()), least) or 1.0
        fault = float(np.abs(mine[name] - right).max() / largest)
        if not fault <= tolerance:
            raise GradientMismatchError(
                f"task {task.name}: the {what} of {name} is off by {fault:.1e} of its largest entry (at most "
                f"{tolerance:g}): its layer's own gradient is wrong"
            )
