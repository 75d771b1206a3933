"""Whether a model may stay: exact tests on counts, never a bare percentage.

Two models judged on the same examples are compared where they differ: of the examples that only one of
them gets right, each would be either's with probability 1/2 if they were equally good (McNemar 1947,
in its exact binomial form; one-sided). A model that replaces none is held against the gate's floor by the
exact binomial test.
"""

import math
from enum import StrEnum

import msgspec

from shoal_codecs.ota.errors import InvalidCountsError
from shoal_codecs.ota.manifest import HealthGate

UNTOLD = (-1, -1)
"""The score that stands for counts which a device keeps to itself."""


class Verdict(StrEnum):
    """What the counts say; ``UNJUDGED`` means too few examples to say anything."""

    PASSED = "passed"
    WORSE = "worse"
    UNJUDGED = "unjudged"


class PairedCounts(msgspec.Struct, frozen=True):
    """Candidate and replaced model on the same ``examples``: counts of right answers.

    Where nothing was replaced ``replaced`` is False and only ``neither`` and ``only_candidate`` count.
    ``latency_ms`` is the candidate's mean time of one prediction.

    Raises:
        InvalidCountsError: counts that no evaluation can give.
    """

    examples: int
    both: int = 0
    only_replaced: int = 0
    only_candidate: int = 0
    replaced: bool = True
    latency_ms: float = 0.0

    def __post_init__(self) -> None:
        """Refuse counts that do not add up."""
        parts = (self.both, self.only_replaced, self.only_candidate)
        alone = not self.replaced and (self.both or self.only_replaced)
        if min(parts) < 0 or sum(parts) > self.examples or alone:
            raise InvalidCountsError(f"{parts} of {self.examples} examples: count again")

    @property
    def candidate_score(self) -> tuple[int, int]:
        """(examples, correct) of the candidate."""
        return self.examples, self.both + self.only_candidate

    @property
    def replaced_score(self) -> tuple[int, int]:
        """(examples, correct) of the model it replaces, (0, 0) where there is none."""
        return (self.examples, self.both + self.only_replaced) if self.replaced else (0, 0)


class Judgement(msgspec.Struct, frozen=True):
    """A verdict and its reason in words for a person."""

    verdict: Verdict
    reason: str


def judge(counts: PairedCounts, gate: HealthGate) -> Judgement:
    """Return what ``gate`` makes of ``counts``."""
    if 0 < gate.max_latency_ms < counts.latency_ms:
        return Judgement(
            Verdict.WORSE,
            f"a prediction takes {counts.latency_ms:.1f} ms, at most {gate.max_latency_ms:g} allowed",
        )
    if counts.examples < gate.min_examples:
        return Judgement(
            Verdict.UNJUDGED,
            f"{counts.examples} held-out examples, {gate.min_examples} are needed for a verdict",
        )
    examples, right = counts.candidate_score
    if counts.replaced:
        chance = sign_test(counts.only_replaced, counts.only_candidate)
        before = counts.replaced_score[1]
        words = f"{right} of {examples} right, {before} before; chance would do this with p = {chance:.2g}"
    else:
        chance = binomial_lower_tail(right, examples, gate.floor_accuracy)
        words = f"{right} of {examples} right, the floor is {gate.floor_accuracy:.0%}; p = {chance:.2g}"
    worse = chance < gate.significance
    return Judgement(Verdict.WORSE if worse else Verdict.PASSED, words)


def sign_test(against: int, in_favour: int) -> float:
    """Return P(X >= against) for X binomial over both counts with probability 1/2; exact."""
    total = against + in_favour
    term, tail = 1, 0
    # By symmetry the tail is that of the few in favour: C(n, 0) + ... + C(n, in_favour).
    for k in range(in_favour + 1):
        tail += term
        term = term * (total - k) // (k + 1)
    return tail / (1 << total)


def binomial_lower_tail(right: int, examples: int, rate: float) -> float:
    """Return P(X <= right) for X binomial over ``examples`` with probability ``rate`` each."""
    if right >= examples or rate <= 0:
        return 1.0
    if rate >= 1:
        return 0.0
    log_all, log_right, log_wrong = math.lgamma(examples + 1), math.log(rate), math.log1p(-rate)
    terms = (
        math.exp(
            log_all
            - math.lgamma(k + 1)
            - math.lgamma(examples - k + 1)
            + k * log_right
            + (examples - k) * log_wrong
        )
        for k in range(right + 1)
    )
    return min(1.0, math.fsum(terms))
