"""How a learning rate changes from version to version."""

import math
from typing import Annotated, Literal

import msgspec

from shoal_codecs.settings import AtLeastOne, Count, Share

LeastShare = Annotated[float, msgspec.Meta(gt=0, lt=1)]


class ScheduleSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A learning rate's schedule; a round that begins with version t has the rate of t.

    Over ``warmup`` versions the rate grows linearly to the whole; what follows counts from there. ``step``
    multiplies it by ``factor`` each ``every`` versions, ``cosine`` brings it down to ``least`` of it over
    ``rounds`` versions, ``sqrt`` divides it by the root of 1 + t. Something is always left: rounds at a rate
    of zero could not be planned, or would spend budgets and move nothing.
    """

    kind: Literal["constant", "step", "cosine", "sqrt"] = "constant"
    warmup: Count = 0
    every: AtLeastOne = 10
    factor: Share = 0.5
    rounds: AtLeastOne = 100
    least: LeastShare = 0.001

    def at(self, version: int) -> float:
        """Return the share of the whole rate that a round beginning with ``version`` has."""
        if version < self.warmup:
            return (version + 1) / (self.warmup + 1)
        passed = version - self.warmup
        match self.kind:
            case "constant":
                return 1.0
            case "step":
                return max(self.least, self.factor ** (passed // self.every))
            case "cosine":
                turn = math.cos(math.pi * min(passed, self.rounds) / self.rounds)
                return self.least + (1 - self.least) * (1 + turn) / 2
            case "sqrt":
                return max(self.least, 1 / math.sqrt(1 + passed))


CONSTANT = ScheduleSettings()
READ_BY = {
    "constant": ("warmup",),
    "step": ("warmup", "every", "factor", "least"),
    "cosine": ("warmup", "rounds", "least"),
    "sqrt": ("warmup", "least"),
}
"""The keys that each kind of schedule reads."""
