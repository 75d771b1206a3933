"""What private rounds tell beside the update, and the clip norm that follows from it: kept over restarts.

Adaptive clipping (Andrew et al. 2021, algorithm 1, geometric): with C the clip norm and b the noised share of
devices that were not clipped, the next round's is C exp(-rate (b - quantile)).
"""

import math

import msgspec

from shoal_codecs.updates.ring_extras import NOTHING_TOLD, RoundTold
from shoal_codecs.wire.packing import pack
from shoal_coordinator.store import Store

_KEY = "told"
_REMEMBERED = 2
# A fleet whose devices all lie about the bit must not take the norm out of float32.
LEAST_CLIP, MOST_CLIP = 1e-6, 1e6


class ClipRule(msgspec.Struct, frozen=True, kw_only=True):
    """How the clip norm follows: ``quantile`` of updates shall be shorter, ``rate`` is the size of a step."""

    quantile: float = 0.5
    rate: float = 0.2

    def next(self, clip_norm: float, clipped: float) -> float:
        """Return the clip norm after a round in which a share of ``clipped`` updates were longer."""
        moved = clip_norm * math.exp(-self.rate * (1 - clipped - self.quantile))
        return min(max(moved, LEAST_CLIP), MOST_CLIP)


class _Told(msgspec.Struct, frozen=True):
    """What led to a version: the round's words, and the clip norm of the rounds that begin with it."""

    told: RoundTold
    clip_norm: float


class ToldBook:
    """What the rounds to the newest versions told; ``clip_norm`` is the operator's, which comes first."""

    def __init__(self, store: Store, rule: ClipRule, clip_norm: float) -> None:
        self._store = store
        self._rule = rule
        self._first = clip_norm
        self._known: dict[int, _Told] = {}

    async def load(self) -> None:
        """Read what an earlier process wrote."""
        self._known = await self._store.get_record(_KEY, dict[int, _Told]) or {}

    def clip_norm(self, version: int) -> float:
        """Return the clip norm of a round that begins with ``version``."""
        known = [number for number in self._known if number <= version]
        return self._known[max(known)].clip_norm if known else self._first

    def told(self, version: int) -> RoundTold:
        """Return what the round that made ``version`` told."""
        found = self._known.get(version)
        return found.told if found else NOTHING_TOLD

    async def learn(self, version: int, clip_norm: float, told: RoundTold) -> float:
        """Write down what the round that makes ``version`` tells; return the clip norm of the next.

        ``clip_norm`` is this round's. Said again, after a restart or by another round, it replaces what was
        said before.
        """
        if told == NOTHING_TOLD:
            return clip_norm
        following = clip_norm if told.clipped is None else self._rule.next(clip_norm, told.clipped.value)
        known = self._known | {version: _Told(told, following)}
        self._known = {number: known[number] for number in sorted(known)[-_REMEMBERED:]}
        await self._store.set_value(_KEY, pack(self._known))
        return following
