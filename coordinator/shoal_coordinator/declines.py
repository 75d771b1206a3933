"""Who declines again and again, and is therefore asked less often: pure, in numbers of rounds."""

from dataclasses import dataclass

MOST_DOUBLED = 5
MOST_CHARACTERS = 120


@dataclass(frozen=True, slots=True)
class Declined:
    """The rounds in a row that a device declined, why and which one last, and the last it is left out of."""

    times: int
    reason: str
    number: int
    rests_until: int


NEVER = Declined(0, "", 0, 0)


class Declines:
    """The declines of devices since each last took part, or started.

    A device that cannot train would otherwise take every round below its floor. After the first decline it
    is asked again at once, then after 1, 3, 7, 15 and at most 31 rounds.
    """

    def __init__(self) -> None:
        self._declined: dict[str, Declined] = {}

    def of(self, device: str) -> Declined:
        """Return how a device stands."""
        return self._declined.get(device, NEVER)

    def declined(self, device: str, number: int, reason: str) -> None:
        """Note that a device does not take part in round ``number``, however often it says so."""
        before = self.of(device)
        times = before.times + (number != before.number)
        rest = 2 ** min(times - 1, MOST_DOUBLED) - 1
        # What a screen shows cannot move its cursor.
        words = "".join(filter(str.isprintable, _fault_of(reason)[:MOST_CHARACTERS]))
        self._declined[device] = Declined(times, words, number, number + rest)

    def forget(self, device: str) -> None:
        """Note that a device took part, or started again: what was wrong may be mended."""
        self._declined.pop(device, None)

    def resting(self, ended_round: int) -> frozenset[str]:
        """Return whom not to ask for the round after ``ended_round``."""
        return frozenset(name for name, one in self._declined.items() if one.rests_until > ended_round)


def _fault_of(reason: str) -> str:
    """Return the fault's name alone where a device gives one: the fleet's picture is read by everybody.

    What follows it tells of the device's own files and limits, which stand in its log.
    """
    name, colon, _ = reason.partition(":")
    return name if colon and name.isidentifier() and name.endswith("Error") else reason
