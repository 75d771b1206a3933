"""How many bytes a round took: means over its devices of what each counted on its own connections."""

from statistics import fmean


class TrafficMeter:
    """Differences of the running totals that devices report with heartbeats and evaluations.

    A device's first heartbeat says where it stood before its first round, so that what it fetches for
    that round is counted too; a device that started again counts from nothing.
    """

    def __init__(self) -> None:
        self._totals: dict[str, tuple[int, int]] = {}
        self._round: dict[str, tuple[int, int]] = {}

    def stood_at(self, device: str, sent: int, received: int) -> None:
        """Take a heartbeat's totals in bytes, where nothing is known of the device yet."""
        self._totals.setdefault(device, (sent, received))

    def evaluated(self, device: str, sent: int, received: int) -> None:
        """Take a device's totals since its start, in bytes; smaller ones than before mean a restart."""
        before = self._totals.get(device)
        self._totals[device] = (sent, received)
        if before is None:
            return
        if sent < before[0] or received < before[1]:
            before = (0, 0)
        up, down = self._round.get(device, (0, 0))
        self._round[device] = (up + sent - before[0], down + received - before[1])

    def close_round(self) -> tuple[float, float]:
        """Return the mean bytes (up, down) of the round's devices, 0 where none is known, and begin anew."""
        found, self._round = list(self._round.values()), {}
        if not found:
            return 0.0, 0.0
        return fmean(up for up, _ in found), fmean(down for _, down in found)
