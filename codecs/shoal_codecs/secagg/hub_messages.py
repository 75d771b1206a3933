"""What goes into and comes out of a hub's machine for one plan: states, events, actions, memory.

A ``Log`` action must be durable before the action after it is carried out; that is what a restart, or a
second question, is answered from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """Where a hub stands in a round."""

    SIGNED = "signed"
    """The plan is signed; reports are collected."""
    CLOSED = "closed"
    """This hub's own set is final and published; the peers' sets are awaited."""
    CHALLENGED = "challenged"
    """Norm check: the common reports are fixed and the challenge is shown; the peers' are awaited."""
    CHECKING = "checking"
    """Norm check: projections of the shares are made and exchanged."""
    AGREED = "agreed"
    """Bound, once, to one set; the peers' agreements are awaited."""
    SUMMING = "summing"
    """Every hub is bound to the same set; the sum is being added up."""
    SUMMED = "summed"
    """The sum is released to the coordinator."""
    COMMITTED = "committed"
    """The coordinator stored the version; key and ciphertexts are destroyed."""
    SPENT = "spent"
    """The sum was released and the coordinator gave the round up: the base stays answered."""
    ABANDONED = "abandoned"
    """Nothing was released and nothing ever will be; key and ciphertexts are destroyed."""


@dataclass(frozen=True, slots=True)
class RoundTerms:
    """What a hub goes by in one round; times in milliseconds since the epoch or as spans.

    ``peers`` are the plan's other hubs; ``floor`` the fewest reports that may be summed. ``silence_ms`` after
    the end of the round, or its own start, a hub that is bound and has released nothing gives up peers that
    are silent. ``checked`` is whether norms are checked before the agreement.
    """

    peers: frozenset[str]
    cohort: frozenset[str]
    floor: int
    quorum: int
    patience_ms: int
    closes_ms: int
    linger_ms: int
    resend_ms: int = 1000
    silence_ms: int = 300_000
    checked: bool = False


# --- events -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReportStored:
    """A believed report is durable."""

    device: str
    report_id: bytes
    at_ms: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passes."""

    now_ms: int


@dataclass(frozen=True, slots=True)
class PeerSet:
    """A peer closed and holds these reports."""

    hub: str
    reports: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class PeerChallenge:
    """A peer shows the challenge it promised (32 bytes), for the reports it takes to be common."""

    hub: str
    digest: bytes
    secret: bytes


@dataclass(frozen=True, slots=True)
class PeerProjections:
    """A peer's projections of its shares of the common reports, in the order of their names."""

    hub: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Projected:
    """This hub's own projections are made."""

    data: bytes


@dataclass(frozen=True, slots=True)
class NormsJudged:
    """The devices whose updates are short enough."""

    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PeerAgreement:
    """A peer bound itself to a set."""

    hub: str
    digest: bytes
    members: tuple[str, ...]
    at_ms: int


@dataclass(frozen=True, slots=True)
class PeerAbandoned:
    """A peer signed that it released nothing and never will."""

    hub: str


@dataclass(frozen=True, slots=True)
class SumSealed:
    """The sum is added up and sealed to the coordinator."""

    sealed: bytes


@dataclass(frozen=True, slots=True)
class Committed:
    """The coordinator stored the version this round made."""


@dataclass(frozen=True, slots=True)
class Aborted:
    """The coordinator gave the round up."""

    reason: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Reminded:
    """Somebody may not have heard this hub's latest word: a restart, a reconnect, a plan proposed again."""


Event = (
    ReportStored
    | Tick
    | PeerSet
    | PeerChallenge
    | PeerProjections
    | Projected
    | NormsJudged
    | PeerAgreement
    | PeerAbandoned
    | SumSealed
    | Committed
    | Aborted
    | Reminded
)

# --- actions ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PublishSigned:
    """Tell the coordinator again that the plan is signed."""


@dataclass(frozen=True, slots=True)
class LogClosed:
    """Make durable that these are all the reports this hub holds."""

    reports: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class PublishSet:
    """Tell the peers which reports this hub holds."""

    reports: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class LogChallenged:
    """Make durable for which common reports the challenge is shown: for no others, ever."""

    digest: bytes
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PublishChallenge:
    """Show the peers this hub's challenge."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class LogChecking:
    """Make durable what the peers' challenges are: a restarted hub makes the same projections."""

    secrets: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class ComputeProjections:
    """Project the members' shares; answer with ``Projected``."""

    digest: bytes
    members: tuple[str, ...]
    secrets: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class PublishProjections:
    """Send each peer this hub's projections, sealed."""

    digest: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class JudgeNorms:
    """Add all hubs' projections up and see whose updates are too long; answer with ``NormsJudged``."""

    members: tuple[str, ...]
    projections: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class LogAgreement:
    """Make durable that this hub is bound to this set and to no other."""

    digest: bytes
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PublishAgreement:
    """Tell everyone which set this hub is bound to."""

    digest: bytes
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ComputeSum:
    """Add the members' shares up and seal the sum; answer with ``SumSealed``."""

    digest: bytes
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LogSum:
    """Make the sealed sum durable: asked again, the hub sends the same bytes."""

    sealed: bytes


@dataclass(frozen=True, slots=True)
class PublishSum:
    """Send the sealed sum to the coordinator."""

    digest: bytes
    sealed: bytes


@dataclass(frozen=True, slots=True)
class LogEnding:
    """Make durable how the round ended: committed, spent or abandoned, and for which reason."""

    state: State
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DestroyKey:
    """Destroy the round's private key and the ciphertexts; nothing happens if they are gone."""


@dataclass(frozen=True, slots=True)
class PublishAbandoned:
    """Tell everyone that this hub released nothing of this plan and never will."""

    reason: str


@dataclass(frozen=True, slots=True)
class LogSettled:
    """Make durable that the coordinator knows of the abandonment; it need not be told again."""


Action = (
    PublishSigned
    | LogClosed
    | PublishSet
    | LogChallenged
    | PublishChallenge
    | LogChecking
    | ComputeProjections
    | PublishProjections
    | JudgeNorms
    | LogAgreement
    | PublishAgreement
    | ComputeSum
    | LogSum
    | PublishSum
    | LogEnding
    | DestroyKey
    | PublishAbandoned
    | LogSettled
)


@dataclass(frozen=True, slots=True)
class RoundMemory:
    """What the durable log says of a round: all that a restarted hub goes on from.

    ``reports`` are (device, report id, time stored) as they came; ``challenged`` and ``agreement`` are
    (digest, members), ``secrets`` the peers' challenges.
    """

    reports: tuple[tuple[str, bytes, int], ...] = ()
    closed: bool = False
    challenged: tuple[bytes, tuple[str, ...]] | None = None
    secrets: Mapping[str, bytes] | None = None
    agreement: tuple[bytes, tuple[str, ...]] | None = None
    sealed: bytes | None = None
    ending: State | None = None
    reason: str = ""
    settled: bool = False
