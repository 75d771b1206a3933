"""Who wants which topics, and what the broker knows of it."""

from collections.abc import Awaitable, Callable

from shoal_codecs.transport.messages import Delivery

Handler = Callable[[Delivery], Awaitable[None]]


def matches(topic_filter: str, topic: str) -> bool:
    """Return whether ``topic`` matches ``topic_filter`` (MQTT 5, section 4.7)."""
    return _matches(topic_filter.split("/"), topic.split("/"))


def _matches(wanted: list[str], levels: list[str]) -> bool:
    if levels[0].startswith("$") and wanted[0] in {"+", "#"}:
        return False
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in {"+", levels[index]}:
            return False
    return len(wanted) == len(levels)


class Subscriptions:
    """The filters of one link, their handlers, and which of them the broker has confirmed."""

    def __init__(self) -> None:
        self._wanted: dict[str, tuple[Handler, int]] = {}
        self._wildcards: dict[str, list[str]] = {}
        self._confirmed: set[str] = set()
        self._stale: set[str] = set()

    def add(self, topic_filter: str, handler: Handler, qos: int) -> None:
        """Want ``topic_filter``, to be confirmed by the broker."""
        self._wanted[topic_filter] = (handler, qos)
        if "+" in topic_filter or "#" in topic_filter:
            self._wildcards[topic_filter] = topic_filter.split("/")
        self._confirmed.discard(topic_filter)
        self._stale.discard(topic_filter)

    def remove(self, topic_filter: str) -> None:
        """Want ``topic_filter`` no longer; the broker is to be told."""
        self._wanted.pop(topic_filter, None)
        self._wildcards.pop(topic_filter, None)
        self._confirmed.discard(topic_filter)
        self._stale.add(topic_filter)

    def confirm(self, topic_filter: str) -> None:
        """Note that the broker has it."""
        if topic_filter in self._wanted:
            self._confirmed.add(topic_filter)

    def confirm_removed(self, topic_filter: str) -> None:
        """Note that the broker has it no longer."""
        self._stale.discard(topic_filter)

    def forget_confirmations(self) -> None:
        """Note that the broker begins with an empty session."""
        self._confirmed.clear()
        self._stale.clear()

    def missing(self) -> list[tuple[str, int]]:
        """Return (filter, QoS) of what is wanted and not confirmed."""
        return [(f, qos) for f, (_, qos) in self._wanted.items() if f not in self._confirmed]

    def stale(self) -> list[str]:
        """Return the filters that the broker still has though nobody wants them."""
        return sorted(self._stale)

    def handlers(self, topic: str) -> list[Handler]:
        """Return the handlers of every filter that ``topic`` matches."""
        found = []
        if topic in self._wanted:
            found.append(self._wanted[topic][0])
        if self._wildcards:
            levels = topic.split("/")
            found += [self._wanted[f][0] for f, wanted in self._wildcards.items() if _matches(wanted, levels)]
        return found
