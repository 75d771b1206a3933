"""Convolutions and pools of the model kit in PyTorch; tensors are (n, height, width, c) or (n, steps, c).

PyTorch wants channels before places. A permuted tensor is in its own ``channels_last`` format, so that
nothing is copied.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from shoal_edge.trainers.torch_call import Call, Forward, Tensor


def conv(call: Call, x: Tensor) -> Tensor:
    """``w`` (height, width, inputs, filters) over an image."""
    size, stride = call.sides("kernel", 2), call.sides("stride", 2)
    image = _padded(call, x.permute(0, 3, 1, 2), size, stride)
    y = functional.conv2d(image, call.p["w"].permute(3, 2, 0, 1), call.p["b"], stride)
    return y.permute(0, 2, 3, 1)


def depthwise(call: Call, x: Tensor) -> Tensor:
    """``w`` (height, width, channels): a kernel of its own for each channel."""
    size, stride = call.sides("kernel", 2), call.sides("stride", 2)
    image = _padded(call, x.permute(0, 3, 1, 2), size, stride)
    w = call.p["w"].permute(2, 0, 1)[:, None]
    return functional.conv2d(image, w, call.p["b"], stride, groups=len(w)).permute(0, 2, 3, 1)


def conv1d(call: Call, x: Tensor) -> Tensor:
    """``w`` (steps, inputs, filters) over a sequence."""
    size, stride = call.sides("kernel", 1), call.sides("stride", 1)
    sequence = _padded(call, x.permute(0, 2, 1), size, stride)
    y = functional.conv1d(sequence, call.p["w"].permute(2, 1, 0), call.p["b"], stride)
    return y.permute(0, 2, 1)


def max_pool(call: Call, x: Tensor) -> Tensor:
    """Largest of each window."""
    if x.dim() == 3:
        return functional.max_pool1d(x.permute(0, 2, 1), call.sides("size", 1)).permute(0, 2, 1)
    return functional.max_pool2d(x.permute(0, 3, 1, 2), call.sides("size", 2)).permute(0, 2, 3, 1)


def average_pool(call: Call, x: Tensor) -> Tensor:
    """Mean of each window."""
    if x.dim() == 3:
        return functional.avg_pool1d(x.permute(0, 2, 1), call.sides("size", 1)).permute(0, 2, 1)
    return functional.avg_pool2d(x.permute(0, 3, 1, 2), call.sides("size", 2)).permute(0, 2, 3, 1)


def global_average_pool(call: Call, x: Tensor) -> Tensor:
    """Mean of each channel."""
    del call
    return x.mean(tuple(range(1, x.dim() - 1)))


def global_max_pool(call: Call, x: Tensor) -> Tensor:
    """Largest of each channel; equal ones share the gradient."""
    del call
    return torch.amax(x, tuple(range(1, x.dim() - 1)))


def _padded(call: Call, x: Tensor, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Return ``x`` (n, c, ...) with the zeros around it that "same" asks for, the odd one after."""
    if call.settings.get("padding") != "same":
        return x
    pads: list[int] = []
    # Of the last axis first.
    for side, one, step in reversed(list(zip(x.shape[2:], size, stride, strict=True))):
        missing = max((-(-side // step) - 1) * step + one - side, 0)
        pads += [missing // 2, missing - missing // 2]
    return functional.pad(x, pads) if any(pads) else x


WINDOWS: dict[str, Forward] = {
    "conv": conv,
    "depthwise": depthwise,
    "conv1d": conv1d,
    "max_pool": max_pool,
    "average_pool": average_pool,
    "global_average_pool": global_average_pool,
    "global_max_pool": global_max_pool,
}
