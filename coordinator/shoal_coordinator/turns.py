"""Whose turn it is where cohorts are smaller than the fleet: everybody once in a pass, each in a new order.

Were it simply whoever waited longest, a fleet in which nobody fails would show the same cohorts in the same
order for ever, and the model would swing with them.
"""

from collections.abc import Collection, Iterator, Mapping


class Turns(Mapping[str, int]):
    """Maps a device to the last pass in which it had its turn; 0, the least, to who never had one.

    The lowest go first, and chance decides among equals. Whoever missed passes is not owed them.
    """

    def __init__(self) -> None:
        self._passes: dict[str, int] = {}
        self._present = 0

    def __getitem__(self, device: str) -> int:
        """Return a device's last pass."""
        return self._passes.get(device, 0)

    def __iter__(self) -> Iterator[str]:
        """Return whoever had a turn."""
        return iter(self._passes)

    def __len__(self) -> int:
        """Return how many had one."""
        return len(self._passes)

    def taken(self, cohort: Collection[str], able: Collection[str]) -> None:
        """Note that those of ``cohort`` had their turn.

        ``able`` are those that some round could have now. The pass is over when each of them had its turn;
        whoever is in the cohort for a second time then has its turn of the next pass already.
        """
        present = self._present
        over = all(self[name] >= present for name in set(able).difference(cohort))
        for name in cohort:
            if self[name] < present:
                self._passes[name] = present
            elif over:
                self._passes[name] = self._present = present + 1
