"""The model kit's optimisers in PyTorch, with the same formulas and state."""

from __future__ import annotations

from typing import Any

import torch

from shoal_codecs.wire.task import LayerDescription
from shoal_edge.trainers.errors import UnknownLayerError


def optimiser(about: LayerDescription, parameters: list[Any]) -> Any:
    """Return a fresh optimiser for ``parameters``; its learning rate is set at each fit.

    Raises:
        UnknownLayerError: none that this agent knows.
    """
    settings: dict[str, Any] = dict(about.settings)
    match about.kind:
        case "sgd":
            return torch.optim.SGD(parameters, lr=1.0)
        case "momentum":
            return torch.optim.SGD(parameters, lr=1.0, momentum=settings["decay"])
        case "adam":
            betas = (settings["beta1"], settings["beta2"])
            return torch.optim.Adam(parameters, lr=1.0, betas=betas, eps=settings["epsilon"])
        case _:
            raise UnknownLayerError(
                f"no optimiser is called {about.kind[:40]!r} here: update the agent, or choose the trainer "
                "litert"
            )
