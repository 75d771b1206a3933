"""The model kit's layers in PyTorch: a second, independent reading of what each of them means.

Tensors keep the kit's layouts: the batch first, channels last, and parameters as the flat vector has them. A
layer that PyTorch wants otherwise turns them on the way in, which copies nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from shoal_edge.trainers.errors import UnknownLayerError
from shoal_edge.trainers.torch_call import Call, Forward, Tensor
from shoal_edge.trainers.torch_sequences import SEQUENCES
from shoal_edge.trainers.torch_windows import WINDOWS


def dense(call: Call, x: Tensor) -> Tensor:
    """``x`` (n, i) times ``w`` (i, o) plus ``b`` (o,)."""
    return torch.addmm(call.p["b"], x, call.p["w"])


def activation(call: Call, x: Tensor) -> Tensor:
    """Return a function of each entry."""
    function = str(call.settings["function"])
    if function not in _FUNCTIONS:
        raise UnknownLayerError(f"no activation is called {function[:40]!r} here: update the agent")
    return _FUNCTIONS[function](x)


def scale(call: Call, x: Tensor) -> Tensor:
    """Return every entry times a factor."""
    return x * call.number("factor")


def flatten(call: Call, x: Tensor) -> Tensor:
    """Return all axes but the batch's as one."""
    del call
    return x.reshape(len(x), -1)


def reshape(call: Call, x: Tensor) -> Tensor:
    """Return the same entries in the wanted shape."""
    return x.reshape(len(x), *call.sides("shape"))


def layer_norm(call: Call, x: Tensor) -> Tensor:
    """Last axis to mean 0 and variance 1, scaled and shifted (Ba et al. 2016)."""
    g, b = call.p["g"], call.p["b"]
    return torch.nn.functional.layer_norm(x, g.shape, g, b, eps=1e-5)


def batch_norm(call: Call, x: Tensor) -> Tensor:
    """Each channel to mean 0 and variance 1 over the batch (Ioffe and Szegedy 2015); biased variances."""
    p, momentum, epsilon = call.p, call.number("momentum"), call.number("epsilon")
    if not call.training:
        return (x - p["mean"]) / torch.sqrt(p["variance"].clamp(min=0) + epsilon) * p["g"] + p["b"]
    axes = tuple(range(x.dim() - 1))
    mean, variance = x.mean(axes), x.var(axes, correction=0)
    for name, seen in (("mean", mean), ("variance", variance)):
        call.moved[name] = p[name] * momentum + seen * (1 - momentum)
    return (x - mean) / torch.sqrt(variance + epsilon) * p["g"] + p["b"]


_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu6": torch.nn.functional.relu6,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}

LAYERS: dict[str, Forward] = {
    "dense": dense,
    "activation": activation,
    "scale": scale,
    "flatten": flatten,
    "reshape": reshape,
    "layer_norm": layer_norm,
    "batch_norm": batch_norm,
    **WINDOWS,
    **SEQUENCES,
}


def layer(kind: str) -> Forward:
    """Return what the layers of ``kind`` do.

    Raises:
        UnknownLayerError: this agent knows none.
    """
    if kind not in LAYERS:
        raise UnknownLayerError(
            f"no layer is called {kind[:40]!r} here: update the agent, or choose the trainer litert"
        )
    return LAYERS[kind]
