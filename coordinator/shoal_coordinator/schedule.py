"""When the next round may begin: a target version, a pause, and a back-off that grows with failures."""


class Schedule:
    """Times in milliseconds; ``target`` is the version to reach.

    After a commit the next round may begin ``pause_ms`` later, after an abort ``shortest_ms``, twice that
    after the next, up to ``longest_ms``.
    """

    def __init__(
        self, target: int, pause_ms: int = 0, shortest_ms: int = 500, longest_ms: int = 10_000
    ) -> None:
        self.target = target
        self._pause_ms = pause_ms
        self._shortest_ms = shortest_ms
        self._longest_ms = longest_ms
        self._failures = 0
        self._not_before_ms = 0

    def run_more(self, count: int, version: int) -> int:
        """Ask for ``count`` rounds more than are under way; return the new target."""
        self.target = max(self.target, version) + count
        self._not_before_ms = 0
        return self.target

    def stop(self, version: int) -> None:
        """Ask for no rounds any more beyond ``version``, the newest."""
        self.target = version

    def committed(self, now_ms: int) -> None:
        """Note that a round made its version."""
        self._failures = 0
        self._not_before_ms = now_ms + self._pause_ms

    def aborted(self, now_ms: int) -> int:
        """Note that a round was aborted; return the milliseconds until the next is tried."""
        wait = min(self._longest_ms, self._shortest_ms << min(self._failures, 16))
        self._failures += 1
        self._not_before_ms = now_ms + wait
        return wait

    def wait_ms(self, version: int, now_ms: int) -> int | None:
        """Return the milliseconds until a round may begin, None while no more rounds are asked for."""
        if version >= self.target:
            return None
        return max(0, self._not_before_ms - now_ms)
