"""What an operator says about the algorithm: one table of settings, of which each algorithm reads its own."""

from typing import Annotated, Literal

import msgspec

from shoal_codecs.settings import Count, NotNegative, PartialShare, Positive

Momentum = Annotated[float, msgspec.Meta(ge=0, lt=1)]


class AlgorithmSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How updates become the next version; docs/reference/algorithms.md says which key is whose.

    An empty ``name`` takes the task's own, else ``fedavg``. A device weighs by its ``weighting``: its
    examples, all alike, or how well its trained model does on its held-out examples.
    """

    name: str = ""
    weighting: Literal["examples", "uniform", "validation"] = "examples"
    momentum: Momentum = 0.9
    beta_1: Momentum = 0.9
    beta_2: Momentum = 0.99
    adaptivity: Positive = 1e-3
    fairness: NotNegative = 1.0
    even_steps: NotNegative = 0.0
    hostile_share: PartialShare = 0.2
    krum_kept: Count = 0
    norm_bound: NotNegative = 0.0
    buffer: Count = 0
    staleness_limit: Count = 10
    staleness_power: NotNegative = 0.5


DEFAULT_OPTIONS = AlgorithmSettings()
