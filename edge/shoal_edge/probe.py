"""What trying a model out told; apart from what the agent makes of it, so that the worker loads little."""

import msgspec


class Probe(msgspec.Struct, frozen=True):
    """One model of a task, tried out: its width in per cent, seconds of a whole fit, bytes that it took."""

    percent: int
    fit_s: float
    memory_bytes: int
