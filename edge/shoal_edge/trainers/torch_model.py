"""A task's model built in PyTorch from its architecture: forward, losses, gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from shoal_codecs.wire.task import TaskBundle, split_weights
from shoal_edge.trainers.errors import NoArchitectureError, TaskMismatchError
from shoal_edge.trainers.torch_call import Call, Forward, Tensor
from shoal_edge.trainers.torch_layers import layer

Tensors = dict[str, Tensor]


class TorchModel:
    """The model that ``bundle``'s architecture describes; holds no weights.

    Raises:
        NoArchitectureError: the task does not describe its layers.
        UnknownLayerError: a layer that this agent does not know.
        TaskMismatchError: parameters that belong to no layer.
    """

    def __init__(self, bundle: TaskBundle) -> None:
        if bundle.architecture is None:
            raise NoArchitectureError(
                f"task {bundle.name} does not describe its layers, so that only LiteRT trains it: set "
                "`trainer` to litert"
            )
        self._bundle = bundle
        self.architecture = bundle.architecture
        self._scale = bundle.architecture.mean, bundle.architecture.deviation
        self._layers: list[tuple[str, Forward, dict[str, Any]]] = [
            (one.name, layer(one.kind), one.settings) for one in bundle.architecture.layers
        ]
        names = {one.name: self._owner(one.name) for one in bundle.parameters}
        self._own = {owner: [name for name in names if names[name] == owner] for owner, _, _ in self._layers}

    def _owner(self, parameter: str) -> str:
        # The longest: a layer may be called like another and more.
        owners = [name for name, _, _ in self._layers if name and parameter.startswith(f"{name}_")]
        if not owners:
            raise TaskMismatchError(
                f"no layer of task {self._bundle.name} has the parameter {parameter}: author the task again"
            )
        return max(owners, key=len)

    def forward(
        self, p: Tensors, x: Tensor, *, training: bool = False, seed: int = 0
    ) -> tuple[Tensor, Tensors]:
        """Return the last layer's output for raw ``x`` (n, ...), and what training moves by full names.

        ``seed`` draws the masks of dropout.
        """
        mean, deviation = self._scale
        if self._bundle.input.dtype != "int32" and (mean, deviation) != (0.0, 1.0):
            x = (x - mean) / deviation
        moved: Tensors = {}
        for name, run, settings in self._layers:
            own = {full[len(name) + 1 :]: p[full] for full in self._own[name]}
            call = Call(name, settings, own, training, seed)
            x = run(call, x)
            moved |= {f"{name}_{short}": value for short, value in call.moved.items()}
        return x, moved

    def losses(self, output: Tensor, y: Tensor) -> Tensor:
        """Return each example's loss (n,): cross-entropy in nats, or mean squared error."""
        if self._bundle.target.kind == "label":
            return torch.nn.functional.cross_entropy(output, y, reduction="none")
        return ((output - y) ** 2).reshape(len(y), -1).mean(dim=1)

    def hits(self, output: Tensor, y: Tensor) -> int:
        """Return how many labels are right; 0 where the target is values."""
        if self._bundle.target.kind != "label":
            return 0
        return int((output.argmax(dim=1) == y).sum())

    def tensors(self, vector: npt.NDArray[np.float32]) -> Tensors:
        """Return the flat ``vector`` (D,) as tensors of their own by full names."""
        parts = split_weights(vector, self._bundle.parameters)
        return {name: torch.from_numpy(part.copy()) for name, part in parts.items()}

    def vector(self, p: Tensors) -> npt.NDArray[np.float32]:
        """Return tensors by full names as one vector (D,)."""
        flat = torch.cat([p[one.name].detach().reshape(-1) for one in self._bundle.parameters])
        found: npt.NDArray[np.float32] = flat.numpy()
        return found

    def inputs(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> tuple[Tensor, Tensor]:
        """Return a batch of raw examples as tensors."""
        return torch.from_numpy(x), torch.from_numpy(y)

    @property
    def x_dtype(self) -> npt.DTypeLike:
        """What inputs are converted to."""
        return np.int64 if self._bundle.input.dtype == "int32" else np.float32

    @property
    def y_dtype(self) -> npt.DTypeLike:
        """What targets are converted to."""
        return np.int64 if self._bundle.target.kind == "label" else np.float32
