"""The norm check inside a hub's machine: what is shown, known and still awaited; pure.

A challenge is shown for one set of reports only, once all of them are fixed at every hub. Whoever holds a
share projects it; all projections together are those of the update, whose norm they estimate.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal_codecs.secagg.hub_errors import PeerContradictionError
from shoal_codecs.secagg.hub_messages import (
    Action,
    ComputeProjections,
    JudgeNorms,
    LogChallenged,
    LogChecking,
    PeerChallenge,
    PeerProjections,
    PublishChallenge,
    PublishProjections,
)


@dataclass(slots=True)
class NormCheck:
    """One hub's part in the check; idle where a round has none.

    ``challenged`` is (digest, members) of the reports the challenge is shown for, ``secrets`` the peers'
    challenges once all are known: both as the log has them.
    """

    _challenged: tuple[bytes, tuple[str, ...]] | None
    _secrets: Mapping[str, bytes] | None
    _heard: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    _projections: dict[str, bytes] = field(default_factory=dict)
    _own: bytes | None = None
    _computing: bool = False
    _judging: bool = False

    def challenge(self, digest: bytes, members: tuple[str, ...]) -> list[Action]:
        """Show the challenge for these reports."""
        self._challenged = digest, members
        return [LogChallenged(digest, members), PublishChallenge(digest)]

    def hear(self, event: PeerChallenge | PeerProjections) -> None:
        """Take a peer's challenge or its projections.

        Raises:
            PeerContradictionError: its second, different word.
        """
        if isinstance(event, PeerChallenge):
            said = (event.digest, event.secret)
            if self._heard.setdefault(event.hub, said) != said:
                raise PeerContradictionError(f"{event.hub} challenges another set: its first word stands")
        elif self._projections.setdefault(event.hub, event.data) != event.data:
            raise PeerContradictionError(f"{event.hub} has other projections now: its first word stands")

    def parted(self) -> list[str]:
        """Return the peers that take other reports to be common."""
        digest = self._challenged[0] if self._challenged else b""
        return sorted(hub for hub, (theirs, _) in self._heard.items() if theirs != digest)

    def secrets_of(self, peers: frozenset[str]) -> bool:
        """Return whether every peer has shown its challenge."""
        return self._heard.keys() == peers

    def begin(self) -> list[Action]:
        """Make the projections, now that every challenge is known."""
        self._secrets = {hub: secret for hub, (_, secret) in sorted(self._heard.items())}
        return [LogChecking(dict(self._secrets)), *self._compute()]

    def projected(self, data: bytes) -> list[Action]:
        """Send this hub's projections."""
        self._own = data
        return [] if self._challenged is None else [PublishProjections(self._challenged[0], data)]

    def judge(self, peers: frozenset[str]) -> JudgeNorms | None:
        """Return the question whose norms are in order, once, when all projections are here."""
        if self._own is None or self._judging or self._projections.keys() != peers:
            return None
        self._judging = True
        return JudgeNorms(self._known()[1], {"": self._own, **self._projections})

    def latest_words(self) -> list[Action]:
        """Return what a peer may lack; after a restart the projections are made again first."""
        if self._challenged is None:
            return []
        words: list[Action] = [PublishChallenge(self._challenged[0])]
        if self._own is not None:
            words.append(PublishProjections(self._challenged[0], self._own))
        elif self._secrets is not None:
            words += self._compute()
        return words

    def _compute(self) -> list[Action]:
        if self._computing or self._secrets is None:
            return []
        self._computing = True
        return [ComputeProjections(*self._known(), dict(self._secrets))]

    def _known(self) -> tuple[bytes, tuple[str, ...]]:
        if self._challenged is None:
            raise AssertionError("a check begins with a challenge")
        return self._challenged
