"""What a hub hears before its peers have vouched for its log: kept in order, within bounds."""

from collections import deque
from collections.abc import Iterator

from shoal_codecs.wire.messages import AnyMessage


class HeldWords:
    """At most ``most`` messages of ``most_bytes`` together; the oldest goes first, for everybody repeats."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._words: deque[tuple[str, AnyMessage, int]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        """Return how many messages wait."""
        return len(self._words)

    def put(self, part: str, message: AnyMessage, size: int) -> None:
        """Keep ``message``, which came on the topic part ``part`` in a frame of ``size`` bytes."""
        self._words.append((part, message, size))
        self._bytes += size
        while len(self._words) > self._most or self._bytes > self._most_bytes:
            self._bytes -= self._words.popleft()[2]

    def drain(self) -> Iterator[tuple[str, AnyMessage]]:
        """Yield everything with its topic part, oldest first, and let go of it."""
        while self._words:
            part, message, size = self._words.popleft()
            self._bytes -= size
            yield part, message
