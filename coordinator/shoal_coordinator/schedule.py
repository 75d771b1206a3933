"""When the next round may begin: a target version, a pause, and a back-off that grows with failures."""


class Schedule:
    """Times in milliseconds; ``target`` is the version to reach.

    After a commit the next round may begin ``pause_ms`` later, after an abort ``shortest_ms``, twice that
    after the next, up to ``longest_ms``. Where parties refused the round they are likely to refuse the next,
    so these waits grow up to ``refused_ms``.
    """

    def __init__(
        self,
        target: int,
        pause_ms: int = 0,
        shortest_ms: int = 500,
        longest_ms: int = 10_000,
        refused_ms: int = 300_000,
    ) -> None:
        self.target = target
        self._pause_ms = pause_ms
        self._shortest_ms = shortest_ms
        self._longest_ms = longest_ms
        self._refused_ms = refused_ms
        self._failures = 0
        self._not_before_ms = 0
        self._refused = False

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

    def aborted(self, now_ms: int, *, refused: bool = False) -> int:
        """Note that a round was aborted; return the milliseconds until the next is tried.

        ``refused`` says that hubs or devices did not want it.
        """
        longest = self._refused_ms if refused else self._longest_ms
        wait = min(longest, self._shortest_ms << min(self._failures, 16))
        self._failures += 1
        self._not_before_ms, self._refused = now_ms + wait, refused
        return wait

    def something_changed(self) -> None:
        """Try again at once what was refused; where it is refused again, the waits go on growing."""
        if self._refused:
            self._not_before_ms, self._refused = 0, False

    def failing_until_ms(self, now_ms: int) -> int:
        """Return when the next round may begin, where it waits because others failed, and else 0."""
        return self._not_before_ms if self._failures and self._not_before_ms > now_ms else 0

    def wait_ms(self, version: int, now_ms: int) -> int | None:
        """Return the milliseconds until a round may begin, None while no more rounds are asked for."""
        if version >= self.target:
            return None
        return max(0, self._not_before_ms - now_ms)
