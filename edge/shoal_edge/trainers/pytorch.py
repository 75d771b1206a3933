"""Training in PyTorch, for gateways: the same task, the same flat vector, the same reference."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from shoal_codecs.wire.task import REFERENCE_MASK_SEED, REFERENCE_RATE, TaskBundle
from shoal_edge.trainers.base import EvaluationCounts, FitOptions, RandomSource
from shoal_edge.trainers.errors import NoPrivateTrainingError
from shoal_edge.trainers.fit_loop import SEEDS, Batches, Step
from shoal_edge.trainers.fitting_trainer import FittingTrainer, Weights
from shoal_edge.trainers.private import NOISE_PREFIX, PrivateSteps
from shoal_edge.trainers.torch_model import Tensors, TorchModel
from shoal_edge.trainers.torch_optimisers import optimiser

# A gradient of nothing has no direction: this keeps its length off zero.
_LEAST_LENGTH = 1e-15


class TorchTrainer(FittingTrainer):
    """Trains ``bundle``'s model on ``threads`` threads; belongs to the thread that made it.

    Raises:
        NoArchitectureError, UnknownLayerError, TaskMismatchError: a model that it cannot build.
    """

    def __init__(self, bundle: TaskBundle, threads: int = 1) -> None:
        super().__init__(bundle)
        torch.set_num_threads(threads)
        self._model = TorchModel(bundle)
        self._weights: Tensors = {}
        self._anchor: Tensors = {}
        self._correction: Tensors | None = None
        self._optimiser: Any = None
        # Now, for an optimiser that is not known is found so.
        self._dress()

    @property
    def runtime(self) -> str:
        """PyTorch's version."""
        return f"torch {torch.__version__}"

    # --- what FittingTrainer asks for ---------------------------------------------------------

    def _set_weights(self, vector: Weights) -> None:
        self._weights = self._model.tensors(vector)
        self._anchor = self._model.tensors(vector)
        self._correction = None
        for weight in self._weights.values():
            weight.requires_grad_(True)  # noqa: FBT003 - as it is called there
        self._optimiser = optimiser(self._model.architecture.optimiser, list(self._weights.values()))

    def _get_weights(self) -> Weights:
        return self._model.vector(self._weights)

    def _step(self, options: FitOptions, rng: RandomSource, batches: Batches) -> Step:
        """Return what makes one step of the task's optimiser."""
        del batches
        noise = None
        if options.privacy is not None:
            self._refuse_without_private()
            noise = PrivateSteps(options.privacy, self._bundle.parameters)
        if options.correction is not None:
            self._check_vector(options.correction)
            self._correction = self._model.tensors(options.correction)
        for group in self._optimiser.param_groups:
            group["lr"] = options.learning_rate

        def step(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float:
            more = noise.inputs() if noise else {}
            seed = int(rng.integers(0, SEEDS, 1, np.int32)[0]) if "seed" in self._bundle.abilities else 0
            gradients = partial(self._private_gradients, more=more) if more else self._gradients
            loss_sum, moved = gradients(x, y, seed)
            self._pull(options.mu)
            self._optimiser.step()
            with torch.no_grad():
                for name, value in moved.items():
                    self._weights[name].copy_(value)
            return loss_sum

        return step

    def _gradients(self, x: npt.NDArray[Any], y: npt.NDArray[Any], seed: int) -> tuple[float, Tensors]:
        """Leave the mean loss's gradient at the weights; return the summed loss, and what moves besides."""
        inputs, targets = self._model.inputs(x, y)
        self._optimiser.zero_grad(set_to_none=True)
        output, moved = self._model.forward(self._weights, inputs, training=True, seed=seed)
        loss = self._model.losses(output, targets).mean()
        loss.backward()
        return float(loss.detach()) * len(y), {name: value.detach() for name, value in moved.items()}

    def _private_gradients(
        self, x: npt.NDArray[Any], y: npt.NDArray[Any], seed: int, *, more: dict[str, npt.NDArray[np.float32]]
    ) -> tuple[float, Tensors]:
        """Leave the mean of clipped gradients and noise at the weights (Abadi et al. 2016, algorithm 1)."""
        inputs, targets = self._model.inputs(x, y)
        still = {name: weight.detach() for name, weight in self._weights.items()}

        def loss(p: Tensors, one: Any, wanted: Any) -> Any:
            output, _ = self._model.forward(p, one[None], training=True, seed=seed)
            return self._model.losses(output, wanted[None])[0]

        each = torch.func.vmap(torch.func.grad_and_value(loss), (None, 0, 0))
        gradients, losses = each(still, inputs, targets)
        squares = sum(one.reshape(len(y), -1).square().sum(dim=1) for one in gradients.values())
        kept = torch.clamp(float(more["clip"][0]) / squares.sqrt().clamp(min=_LEAST_LENGTH), max=1.0)
        for name, weight in self._weights.items():
            total = torch.tensordot(kept, gradients[name], dims=1)
            weight.grad = (total + torch.from_numpy(more[NOISE_PREFIX + name])) / len(y)
        return float(losses.sum()), {}

    def _pull(self, mu: float) -> None:
        """Add what FedProx and SCAFFOLD add to a gradient."""
        with torch.no_grad():
            for name, weight in self._weights.items():
                if weight.grad is None:
                    continue
                if mu:
                    weight.grad.add_(weight - self._anchor[name], alpha=mu)
                if self._correction is not None:
                    weight.grad.add_(self._correction[name])

    def _gradient(
        self,
        start: Weights,
        signature: str,
        /,
        x: npt.NDArray[Any],
        y: npt.NDArray[Any],
        **more: npt.NDArray[Any],
    ) -> Weights:
        """Return what a step follows (D,) on a batch of raw examples, from the weights ``start``."""
        self._set_weights(start)
        inputs, targets = self._batches(x, y, len(x)).cut(slice(None))
        if signature == "train":
            _, moved = self._gradients(inputs, targets, REFERENCE_MASK_SEED)
        else:
            _, moved = self._private_gradients(inputs, targets, REFERENCE_MASK_SEED, more=more)
        zeros = {name: torch.zeros_like(weight) for name, weight in self._weights.items()}
        found = {
            name: zeros[name] if weight.grad is None else weight.grad
            for name, weight in self._weights.items()
        }
        found |= {name: (self._weights[name].detach() - one) / REFERENCE_RATE for name, one in moved.items()}
        return self._model.vector(found)

    def _counts(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> EvaluationCounts:
        with torch.no_grad():
            inputs, targets = self._model.inputs(x, y)
            output, _ = self._model.forward(self._weights, inputs)
            loss_sum = float(self._model.losses(output, targets).sum())
            return EvaluationCounts(len(y), self._model.hits(output, targets), loss_sum)

    def _batches(self, x: npt.NDArray[Any], y: npt.NDArray[Any], size: int) -> Batches:
        return Batches(x, y, size, x_dtype=self._model.x_dtype, y_dtype=self._model.y_dtype)

    def _refuse_without_private(self) -> None:
        if self._bundle.private is None:
            raise NoPrivateTrainingError(
                f"task {self._bundle.name} has no reference for private training: author it with one, or set "
                "example_clip and example_noise to 0"
            )
