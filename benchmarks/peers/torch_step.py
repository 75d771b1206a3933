"""One step of a task in plain PyTorch: modules, optimiser and data as one writes them there; no Shoal.

python benchmarks/peers/torch_step.py MODEL.json

reads what ``benchmarks/training.py`` writes (layers, input, batch, steps) and prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


class Places(nn.Module):  # type: ignore[misc,unused-ignore]
    """Move channels before the places, or after them."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Any) -> Any:
        """Return a contiguous ``x`` in the order."""
        return x.permute(*self.order).contiguous()


class Last(nn.Module):  # type: ignore[misc,unused-ignore]
    """A recurrent module that gives every state, or the last."""

    def __init__(self, module: Any, *, sequences: bool) -> None:
        super().__init__()
        self.module, self.sequences = module, sequences

    def forward(self, x: Any) -> Any:
        """Return (n, steps, units) or (n, units)."""
        states, _ = self.module(x)
        return states if self.sequences else states[:, -1]


class Mean(nn.Module):  # type: ignore[misc,unused-ignore]
    """Mean, or largest, over all places of channels that come first."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        """Return (n, channels)."""
        return self.function(x.flatten(2), 2)


def same(side: int, size: int, stride: int) -> tuple[int, int]:
    """Return the zeros before and after."""
    missing = max((-(-side // stride) - 1) * stride + size - side, 0)
    return missing // 2, missing - missing // 2


def pair(value: Any) -> tuple[int, int]:
    """Return a side, or both."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


class Builder:
    """Modules of an architecture, with the shape that comes in as PyTorch has it: channels first."""

    def __init__(self, shape: list[int]) -> None:
        self.modules: list[Any] = []
        self.shape = shape
        self.first = False

    def channels_first(self) -> None:
        """Turn images and sequences once."""
        if not self.first and len(self.shape) > 1:
            rank = len(self.shape)
            self.modules.append(Places(0, rank, *range(1, rank)))
            self.shape = [self.shape[-1], *self.shape[:-1]]
            self.first = True

    def add(self, layer: dict[str, Any]) -> None:
        """Add a layer by its kind."""
        getattr(self, "add_" + layer["kind"])(layer["settings"])

    def add_dense(self, s: dict[str, Any]) -> None:
        """Every output from every input."""
        self.modules.append(nn.Linear(self.shape[0], s["units"]))
        self.shape = [s["units"]]

    def add_activation(self, s: dict[str, Any]) -> None:
        """Return a function of each entry."""
        known = {"relu": nn.ReLU, "relu6": nn.ReLU6, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
        self.modules.append(known[s["function"]]())

    def _pads(self, size: tuple[int, ...], stride: tuple[int, ...], padding: str) -> Any:
        sides = self.shape[1:]
        if padding != "same":
            self.after = [(one - k) // t + 1 for one, k, t in zip(sides, size, stride, strict=True)]
            return 0
        pads = [same(one, k, t) for one, k, t in zip(sides, size, stride, strict=True)]
        self.after = [-(-one // t) for one, t in zip(sides, stride, strict=True)]
        if all(before == behind for before, behind in pads):
            return tuple(before for before, _ in pads)
        flat = [one for both in reversed(pads) for one in both]
        self.modules.append(nn.ZeroPad1d(tuple(flat)) if len(pads) == 1 else nn.ZeroPad2d(tuple(flat)))
        return 0

    def _conv(self, s: dict[str, Any], filters: int, groups: int) -> None:
        self.channels_first()
        size, stride = pair(s["kernel"]), pair(s["stride"])
        pads = self._pads(size, stride, s["padding"])
        self.modules.append(nn.Conv2d(self.shape[0], filters, size, stride, pads, groups=groups))
        self.shape = [filters, *self.after]

    def add_conv(self, s: dict[str, Any]) -> None:
        """Convolve images."""
        self._conv(s, s["filters"], 1)

    def add_depthwise(self, s: dict[str, Any]) -> None:
        """Convolve each channel."""
        self.channels_first()
        self._conv(s, self.shape[0], self.shape[0])

    def add_conv1d(self, s: dict[str, Any]) -> None:
        """Convolve sequences."""
        self.channels_first()
        pads = self._pads((s["kernel"],), (s["stride"],), s["padding"])
        self.modules.append(nn.Conv1d(self.shape[0], s["filters"], s["kernel"], s["stride"], pads))
        self.shape = [s["filters"], *self.after]

    def _pool(self, s: dict[str, Any], one: Any, two: Any) -> None:
        self.channels_first()
        size = (s["size"],) if len(self.shape) == 2 else pair(s["size"])
        self.modules.append(one(size[0]) if len(size) == 1 else two(size))
        self.shape = [self.shape[0], *(side // k for side, k in zip(self.shape[1:], size, strict=True))]

    def add_max_pool(self, s: dict[str, Any]) -> None:
        """Largest of each window."""
        self._pool(s, nn.MaxPool1d, nn.MaxPool2d)

    def add_average_pool(self, s: dict[str, Any]) -> None:
        """Mean of each window."""
        self._pool(s, nn.AvgPool1d, nn.AvgPool2d)

    def _global(self, function: Any) -> None:
        self.channels_first()
        self.modules.append(Mean(function))
        self.shape, self.first = self.shape[:1], False

    def add_global_average_pool(self, s: dict[str, Any]) -> None:
        """Mean of each channel."""
        del s
        self._global(torch.mean)

    def add_global_max_pool(self, s: dict[str, Any]) -> None:
        """Largest of each channel."""
        del s
        self._global(torch.amax)

    def add_flatten(self, s: dict[str, Any]) -> None:
        """All axes as one."""
        del s
        self.modules.append(nn.Flatten())
        self.shape, self.first = [int(np.prod(self.shape))], False

    def add_reshape(self, s: dict[str, Any]) -> None:
        """Change the shape."""
        self.modules.append(nn.Unflatten(1, tuple(s["shape"])) if len(self.shape) == 1 else nn.Flatten())
        self.shape = list(s["shape"])

    def add_embedding(self, s: dict[str, Any]) -> None:
        """Look tokens up."""
        self.modules.append(nn.Embedding(s["tokens"], s["width"]))
        self.shape = [*self.shape, s["width"]]

    def _recurrent(self, kind: Any, s: dict[str, Any]) -> None:
        module = kind(self.shape[1], s["units"], batch_first=True)
        self.modules.append(Last(module, sequences=s["sequences"]))
        self.shape = [self.shape[0], s["units"]] if s["sequences"] else [s["units"]]

    def add_gru(self, s: dict[str, Any]) -> None:
        """Gated recurrent unit."""
        self._recurrent(nn.GRU, s)

    def add_lstm(self, s: dict[str, Any]) -> None:
        """Long short-term memory."""
        self._recurrent(nn.LSTM, s)

    def add_layer_norm(self, s: dict[str, Any]) -> None:
        """Normalise the last axis."""
        del s
        rank = len(self.shape)
        if not self.first:
            self.modules.append(nn.LayerNorm(self.shape[-1]))
            return
        before, after = Places(0, *range(2, rank + 1), 1), Places(0, rank, *range(1, rank))
        self.modules += [before, nn.LayerNorm(self.shape[0]), after]

    def add_batch_norm(self, s: dict[str, Any]) -> None:
        """Normalise each channel."""
        rank = len(self.shape)
        self.channels_first()
        kind = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d}[rank]
        self.modules.append(kind(self.shape[0], eps=s["epsilon"], momentum=1 - s["momentum"]))

    def add_dropout(self, s: dict[str, Any]) -> None:
        """Drop entries."""
        self.modules.append(nn.Dropout(s["rate"]))


def optimiser(about: dict[str, Any], parameters: Any, rate: float) -> Any:
    """Return the task's optimiser."""
    s = about["settings"]
    if about["kind"] == "adam":
        return torch.optim.Adam(parameters, lr=rate, betas=(s["beta1"], s["beta2"]), eps=s["epsilon"])
    return torch.optim.SGD(parameters, lr=rate, momentum=s.get("decay", 0.0))


def peak_mib() -> float:
    """Return the most memory that this process had: not getrusage's, which begins with its parent's."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> None:
    """Measure and print."""
    about = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    builder = Builder(list(about["shape"]))
    for layer in about["layers"]:
        builder.add(layer)
    model = nn.Sequential(*builder.modules)
    if sum(one.numel() for one in model.state_dict().values()) < about["dimension"]:
        raise SystemExit("the model has fewer parameters than the task: the builder is wrong")
    step = optimiser(about["optimiser"], model.parameters(), about["learning_rate"])
    data = np.load(about["data"])
    x, y = data["x"], data["y"]
    loss_of = nn.CrossEntropyLoss() if about["target"] == "label" else nn.MSELoss()
    rng, walls, begun = np.random.default_rng(1), [], time.process_time()
    for _ in range(about["steps"]):
        started = time.perf_counter()
        rows = rng.integers(0, len(x), about["batch"])
        batch = torch.from_numpy(x[rows])
        scaled = about["mean"], about["deviation"]
        batch = batch.long() if about["tokens"] else (batch.float() - scaled[0]) / scaled[1]
        step.zero_grad()
        loss = loss_of(model(batch), torch.from_numpy(y[rows]))
        loss.backward()
        step.step()
        loss.item()
        walls.append(time.perf_counter() - started)
    peak = peak_mib()
    cpu = (time.process_time() - begun) / about["steps"]
    told = {"walls": walls, "cpu": cpu, "rss": peak, "runtime": f"torch {torch.__version__}"}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
