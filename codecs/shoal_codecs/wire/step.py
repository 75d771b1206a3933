"""A model step: how the vector of one version becomes the next, in a few bytes."""

from typing import Literal

import msgspec

from shoal_codecs.wire.errors import MalformedMessageError
from shoal_codecs.wire.packing import pack, unpack


class ModelStep(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """From ``parent`` to ``child`` (digests of the float32 vectors).

    ``kind`` says which coordinates move, each to ``parent + scale * q``; ``payload`` holds the ``kept``
    integers q as ``updates.levels`` codes them. ``dense``: all of them (those that stay are zeros, which cost
    nearly nothing). ``randk``: the ``led`` coded in ``leading`` (codec ``global_topk``, else none) and those
    that ``seed`` draws among the rest. ``initial``: there is no parent and no payload; the child is
    ``task.initial_weights`` of ``seed``, 8 bytes big-endian.
    """

    kind: Literal["initial", "dense", "randk"]
    parent: bytes
    child: bytes
    seed: bytes
    kept: int
    scale: float
    payload: bytes
    led: int = 0
    leading: bytes = b""


def initial_step(seed: int, child: bytes) -> ModelStep:
    """Return the step to version 0: ``child`` is the digest of the weights that ``seed`` draws."""
    return ModelStep("initial", b"", child, seed.to_bytes(8, "big"), 0, 0.0, b"")


def encode_step(step: ModelStep) -> bytes:
    """Return the step as bytes for a ``ModelOffer``."""
    return pack(step)


def decode_step(data: bytes) -> ModelStep:
    """Return the step in ``data``.

    Raises:
        MalformedMessageError: not a step.
    """
    try:
        return unpack(data, ModelStep)
    except msgspec.ValidationError as error:
        raise MalformedMessageError(f"not a model step ({error}): fetch the whole model") from error
