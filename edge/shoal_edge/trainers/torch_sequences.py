"""Recurrent layers, embedding and dropout of the model kit in PyTorch."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch.nn import functional

from shoal_edge.trainers.torch_call import Call, Forward, Tensor

_WORD = 4096
_ROUNDS = 6
# Where PyTorch has what the kit calls gate 0, 1, ...
_GRU_GATES = (1, 0, 2)
_LSTM_GATES = (0, 1, 3, 2)
_ONE_LAYER: dict[str, Any] = {
    "has_biases": True,
    "num_layers": 1,
    "dropout": 0.0,
    "bidirectional": False,
    "batch_first": True,
}


def gru(call: Call, x: Tensor) -> Tensor:
    """Gates update, reset, candidate; ``w`` (features, 3, units), ``u`` (units, 3, units), ``b``, ``c``."""
    p, first = call.p, _nothing(call, x)
    given = [_weights(p["w"], _GRU_GATES), _weights(p["u"], _GRU_GATES)]
    given += [_bias(p["b"], _GRU_GATES), _bias(p["c"], _GRU_GATES)]
    states, last = torch.gru(x, first, given, **_ONE_LAYER, train=call.training)
    return states if call.settings.get("sequences") else last[0]


def lstm(call: Call, x: Tensor) -> Tensor:
    """Gates input, forget, output, candidate; ``w`` (features, 4, units), ``u`` (units, 4, units), ``b``."""
    p, first = call.p, _nothing(call, x)
    given = [_weights(p["w"], _LSTM_GATES), _weights(p["u"], _LSTM_GATES)]
    bias = _bias(p["b"], _LSTM_GATES)
    given += [bias, torch.zeros_like(bias)]
    states, last, _ = torch.lstm(x, (first, first), given, **_ONE_LAYER, train=call.training)
    return states if call.settings.get("sequences") else last[0]


def embedding(call: Call, x: Tensor) -> Tensor:
    """Return a row of ``table`` (tokens, width) for each token."""
    return functional.embedding(x, call.p["table"])


def dropout(call: Call, x: Tensor) -> Tensor:
    """Drop entries in training, by the kit's hash of (seed, layer, entry), so that masks can be compared."""
    if not call.training:
        return x
    rate = call.number("rate")
    stream = zlib.crc32(call.name.encode()) % _WORD
    words = [call.seed // _WORD**turn % _WORD for turn in range(3)]
    count = torch.arange(x.numel())
    left, right = count % _WORD, count // _WORD
    for turn in range(_ROUNDS):
        key = (words[turn % 3] + (stream * 1009 + turn * 2741 + 977) % _WORD) % _WORD
        mixed = (right + key) % _WORD
        left, right = right, (left + mixed * mixed // 64 + key) % _WORD
    kept = (right >= round(rate * _WORD)).to(x.dtype) / (1 - rate)
    return x * kept.reshape(x.shape)


def _nothing(call: Call, x: Tensor) -> Tensor:
    return torch.zeros(1, len(x), call.p["u"].shape[0], dtype=x.dtype)


def _weights(w: Tensor, gates: tuple[int, ...]) -> Tensor:
    """Return ``w`` (inputs, gates, units) as PyTorch has it: (gates x units, inputs)."""
    return w[:, gates, :].permute(1, 2, 0).reshape(-1, len(w))


def _bias(b: Tensor, gates: tuple[int, ...]) -> Tensor:
    return b[gates, :].reshape(-1)


SEQUENCES: dict[str, Forward] = {"gru": gru, "lstm": lstm, "embedding": embedding, "dropout": dropout}
