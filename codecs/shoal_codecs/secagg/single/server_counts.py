"""Who drew whom, seen from those who were drawn: no word of one device costs a walk over all the others."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

Drawers: TypeAlias = dict[str, list[tuple[str, int]]]
"""For each member, who drew it, in the members' order, and at which place (from 0)."""


def drawers_of(holders: Mapping[str, Sequence[str]], members: Iterable[str]) -> Drawers:
    """Return who of ``members`` drew whom of them; ``holders`` are each one's neighbours in drawn order."""
    ordered = tuple(members)
    found: Drawers = {device: [] for device in ordered}
    for sender in ordered:
        for place, device in enumerate(holders[sender]):
            if device in found:
                found[device].append((sender, place))
    return found


class Consents:
    """The survivors who consented, and which of them can be shown enough of their neighbours' signatures.

    ``threshold`` signatures are enough. ``ready`` has those devices as keys, in the order in which they were.
    """

    def __init__(self, drawers: Drawers, threshold: int) -> None:
        self.ready: dict[str, None] = {}
        self._drawers = drawers
        self._threshold = threshold
        self._signed: set[str] = set()
        self._shown: Counter[str] = Counter()

    def add(self, device: str) -> None:
        """Note that ``device`` has signed; once a device."""
        self._signed.add(device)
        self._look_at(device)
        for other, _ in self._drawers[device]:
            self._shown[other] += 1
            self._look_at(other)

    def _look_at(self, device: str) -> None:
        if self._shown[device] >= self._threshold and device in self._signed:
            self.ready[device] = None
