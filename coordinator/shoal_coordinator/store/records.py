"""What the store holds, as plain values."""

from dataclasses import dataclass, field

from shoal_codecs.wire.blob import BlobRef


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRecord:
    """One model version and where it came from.

    ``digest`` and ``parent`` are BLAKE3 digests of float32 vectors (``parent`` empty for the first),
    ``whole`` the vector's blob, ``step`` that of the encoded step from the parent; the files of old versions
    are dropped (``pruning``). ``accuracy`` and ``loss`` are means over the held-out examples of the devices
    that evaluated it. ``epsilon`` is the most that any device had spent when it was made, ``task_epsilon``
    what all its rounds cost together, both with
    ``delta``; None where a round without noise has gone into it. ``state`` is the blob of the algorithm's
    state beside this version, ``update_norm`` the L2 norm of the mean update of its round,
    ``median_loss`` the median of the evaluating devices' mean losses, None where nobody evaluated.
    """

    number: int
    digest: bytes
    parent: bytes
    round: int
    task: bytes
    whole: BlobRef
    step: BlobRef | None = None
    devices: int = 0
    examples: int = 0
    accuracy: float = 0.0
    loss: float = 0.0
    created_ms: int = 0
    epsilon: float | None = None
    task_epsilon: float | None = None
    delta: float = 0.0
    state: BlobRef | None = None
    update_norm: float = 0.0
    median_loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """How far a round is; ``state`` is the round machine's, ``snapshot`` what it needs to go on."""

    number: int
    state: str
    plan: bytes
    plan_hash: bytes
    opened_ms: int
    snapshot: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRecord:
    """One release; ``manifest`` and ``signature`` are the publisher's, ``state`` the rollout machine's."""

    release: str
    version: int
    state: str
    manifest: bytes
    signature: bytes
    canaries: tuple[str, ...] = ()
    created_ms: int = 0
    changed_ms: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseDeviceRecord:
    """Where one device stands with one release; the counts are (examples, correct)."""

    release: str
    device: str
    state: str
    reason: str = ""
    candidate: tuple[int, int] = (0, 0)
    replaced: tuple[int, int] = (0, 0)
    changed_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivatePlanRecord:
    """A plan with noise that devices were invited to; ``charge`` is its packed price."""

    plan_hash: bytes
    task: bytes
    round: int
    mechanism: str
    noise: float
    charge: bytes
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticipationRecord:
    """How a device stands to a plan with noise: ``invited``, ``accepted`` or ``declined``."""

    plan_hash: bytes
    device: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One line of the audit log, which only grows."""

    at_ms: int
    kind: str
    text: str
    fields: dict[str, object] = field(default_factory=dict)
