"""A share of mode ``plain``: the update in its codec's form, and what the algorithm needs beside it."""

from typing import Literal, TypeAlias

import msgspec

Tell: TypeAlias = Literal["steps", "loss", "score", "control"]
"""What a plan may ask a device to tell: the number of its training steps, the mean loss of the base on its
training examples, how its trained model does on its held-out ones, the change of its SCAFFOLD control."""


class Told(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a device tells beside its update; a field that the plan does not ask for stays at its default.

    ``steps`` counts training steps, ``loss`` is the mean in nats of the base on the training examples before
    the first of them, ``score`` (0 to 1, larger is better) that of the trained model on the held-out ones.
    ``control`` is the change of the device's control in the plan's codec (SCAFFOLD).
    """

    steps: int = 0
    loss: float = 0.0
    score: float = 0.0
    control: bytes = b""


NOTHING_TOLD = Told()


class PlainShare(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a device seals for the coordinator in mode ``plain``."""

    examples: int
    payload: bytes
    told: Told = NOTHING_TOLD
