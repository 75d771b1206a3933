"""The model kit's layers in PyTorch: a second, independent reading of what each of them means.

Tensors keep the kit's layouts: the batch first, channels last, and parameters as the flat vector has them. A
layer that PyTorch wants otherwise turns them on the way in, which copies nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from shoal_codecs.wire.task import Setting
from shoal_edge.trainers.errors import UnknownLayerError

Tensor = Any


@dataclass
class Call:
    """One layer's turn: its ``settings``, its parameters ``p`` by short names.

    ``moved`` collects the parameters that training moves without a gradient, by short names.
    """

    settings: dict[str, Setting]
    p: dict[str, Tensor]
    training: bool
    moved: dict[str, Tensor] = field(default_factory=dict)


Forward = Callable[[Call, Tensor], Tensor]


def dense(call: Call, x: Tensor) -> Tensor:
    """``x`` (n, i) times ``w`` (i, o) plus ``b`` (o,)."""
    return torch.addmm(call.p["b"], x, call.p["w"])


def activation(call: Call, x: Tensor) -> Tensor:
    """Return a function of each entry."""
    function = str(call.settings["function"])
    if function not in _FUNCTIONS:
        raise UnknownLayerError(f"no activation is called {function[:40]!r} here: update the agent")
    return _FUNCTIONS[function](x)


_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu6": torch.nn.functional.relu6,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}

LAYERS: dict[str, Forward] = {
    "dense": dense,
    "activation": activation,
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
