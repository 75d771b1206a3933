"""The logs of a hub's peers: the newest head of each, remembered durably, and told to one that starts.

A hub that lost part of its log, or was put back to an older folder, could sign, agree or release twice. It
cannot know that by itself, but its peers do: it answers nothing before every one of them has said which head
of its log it has seen last (mode ``hubs``, step 11).
"""

from collections.abc import Callable
from typing import Any

import structlog

from shoal_codecs.security.post import Post
from shoal_codecs.wire.messages import HubStatus, PeerLog
from shoal_coordinator.hub.database import HubDatabase
from shoal_coordinator.hub.errors import (
    LogBehindError,
    LogForkedError,
    PeerBehindError,
    UnexpectedMessageError,
)
from shoal_coordinator.hub.performer import Durably

log = structlog.get_logger()

MOST_ENTRIES = 1 << 53


class PeerHeads:
    """The newest heads in the log's file; blocking."""

    def __init__(self, database: HubDatabase) -> None:
        self._database = database

    def known(self, hub: str) -> tuple[int, bytes]:
        """Return position and head of the newest state of the log of ``hub`` that was seen."""
        rows = self._database.rows("SELECT position, head FROM peers WHERE hub = ?", (hub,))
        position, head = rows[0] if rows else (0, b"")
        return position, head

    def note(self, hub: str, position: int, head: bytes) -> None:
        """Remember what ``hub`` shows of its log.

        Raises:
            PeerBehindError: it has shown a newer state, or another, before.
            UnexpectedMessageError: a position that no log has.
        """
        if not 0 <= position < MOST_ENTRIES:
            raise UnexpectedMessageError(f"{hub} shows {position} log entries, which no log has: update it")
        known, seen = self.known(hub)
        if position < known or (position == known and head != seen):
            raise PeerBehindError(
                f"the log of {hub} has {position} entries and had {known}: it was put back to an older "
                "folder; put its newest one back, or enrol it anew"
            )
        if position == known:
            return
        with self._database.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO peers VALUES (?, ?, ?)", (hub, position, head))


class LogWatch:
    """Watches the peers' logs, and lets them watch this hub's.

    ``tell`` says a message on this hub's own topic.
    """

    def __init__(
        self,
        post: Post,
        session: bytes,
        database: HubDatabase,
        durably: Durably,
        tell: Callable[..., Any],
    ) -> None:
        self._name = post.identity.name
        self._session = session
        self._database = database
        self._heads = PeerHeads(database)
        self._durably = durably
        self._tell = tell
        self._unheard = set(post.roster.names("hub")) - {self._name}
        self._answered: dict[str, tuple[bytes, int]] = {}

    @property
    def confirmed(self) -> bool:
        """Whether every peer has said what it knows of this hub's log, and it fits."""
        return not self._unheard

    @property
    def awaited(self) -> tuple[str, ...]:
        """The peers that have not said it yet."""
        return tuple(sorted(self._unheard))

    async def note(self, hub: str, position: int, head: bytes) -> None:
        """Remember the head that a peer's word shows, durably, before the word counts.

        Raises:
            PeerBehindError: it has shown a newer state, or another, before.
        """
        await self._durably(self._heads.note, hub, position, head)

    async def hear_status(self, status: HubStatus) -> None:
        """Tell a peer that starts, or asks again, what is known of its log; then remember what it shows.

        Raises:
            PeerBehindError: it has shown a newer state, or another, before.
        """
        if not status.online:
            return
        hub, shown = status.sender, (status.session, status.position)
        before, self._answered[hub] = self._answered.get(hub), shown
        # A status with a new position of a session that was answered is only news.
        if before is None or before[0] != shown[0] or before == shown:
            position, head = await self._durably(self._heads.known, hub)
            self._tell(PeerLog, hub=hub, session=status.session, position=position, head=head)
        await self.note(hub, status.position, status.head)

    async def hear_peer(self, message: PeerLog) -> bool:
        """Take what a peer knows of this hub's log; return whether that was the last one awaited.

        Raises:
            LogBehindError: it has seen more than there is here.
            LogForkedError: it has seen something else than there is here.
        """
        if message.hub != self._name or message.session != self._session:
            return False
        position, _ = await self._durably(self._database.head)
        if message.position > position:
            raise LogBehindError(
                f"this log has {position} entries and {message.sender} has seen {message.position}: the "
                "folder was put back to an older state; put the newest one back, or enrol this hub anew "
                "under another name"
            )
        if message.position and await self._durably(self._database.link, message.position) != message.head:
            raise LogForkedError(
                f"entry {message.position} of this log is not the one {message.sender} has seen: an older "
                "folder was put back and used; put the right one back, or enrol this hub anew under "
                "another name"
            )
        waiting = bool(self._unheard)
        self._unheard.discard(message.sender)
        return waiting and not self._unheard
