"""How a device gets from the version it holds to another one: by steps, or whole, whichever is smaller."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from shoal_codecs.transport.blob_store import BlobStore
from shoal_codecs.transport.errors import BlobStorageError
from shoal_codecs.wire.blob import BlobRef

log = structlog.get_logger()
MODEL_ID_BYTES = 8
MAX_INLINE_STEP_BYTES = 4096
"""A longer step does not travel inside an offer."""
CHUNK_OVERHEAD_BYTES = 150
"""What a chunk costs beside its bytes: topic, headers and acknowledgements, as measured with Mosquitto."""
REF_BYTES = 45
"""What naming one more blob costs inside an offer."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version: ``digest`` of its vector, ``whole`` its blob, ``step`` the encoded step from ``parent``.

    ``inline`` are the bytes of ``step`` where they are short enough to travel inside an offer. A version
    without a parent and with a step is drawn from a seed. ``state`` is the blob of the algorithm's state that
    belongs to it and never leaves the coordinator, ``update_norm`` the L2 norm of the update that led to it.
    """

    number: int
    digest: bytes
    whole: BlobRef
    parent: bytes = b""
    step: BlobRef | None = None
    inline: bytes = b""
    state: BlobRef | None = None
    update_norm: float = 0.0

    @property
    def model_id(self) -> bytes:
        """What heartbeats and evaluations call it."""
        return self.digest[:MODEL_ID_BYTES]


def with_step(version: ModelVersion, blobs: BlobStore) -> ModelVersion:
    """Return ``version`` with what is kept of its step in ``blobs``; a step that is gone counts as none."""
    step = version.step
    if step is None:
        return version
    try:
        # Steps that nobody needs any more are dropped: nothing to warn of.
        if blobs.has(step.name):
            inline = blobs.read(step.name) if step.size <= MAX_INLINE_STEP_BYTES else b""
            return replace(version, inline=inline)
    except BlobStorageError as error:
        log.warning("step unusable", version=version.number, remedy=str(error))
    return replace(version, step=None, inline=b"")


def transfer_bytes(ref: BlobRef) -> int:
    """Return about how many bytes a device receives that fetches the blob ``ref``."""
    return ref.size + CHUNK_OVERHEAD_BYTES * ref.count


def chain_to(
    version: ModelVersion, held: bytes, history: Sequence[ModelVersion]
) -> tuple[ModelVersion, ...] | None:
    """Return the versions whose steps lead from ``held`` (8 bytes, or none) to ``version``, oldest first.

    ``history`` are the versions before it. Empty where ``version`` is held already; None where no chain
    leads there or the whole model is no larger.
    """
    if held == version.model_id:
        return ()
    known = {one.digest: one for one in history}
    chain: list[ModelVersion] = []
    cost = 0
    at: ModelVersion | None = version
    while at is not None and at.step is not None:
        cost += len(at.inline) if at.inline and not chain else transfer_bytes(at.step) + REF_BYTES
        if cost >= transfer_bytes(version.whole):
            return None
        chain.append(at)
        if at.parent[:MODEL_ID_BYTES] in {b"", held}:
            return tuple(reversed(chain))
        at = known.get(at.parent)
    return None


def longest_to(
    version: ModelVersion, history: Sequence[ModelVersion], longest: int
) -> tuple[ModelVersion, ...] | None:
    """Return the longest chain to ``version`` that is smaller than the whole, None where there is none.

    For a device that may hold any of the versions on the way: it fetches the newest steps first, and no more
    than it lacks. At most ``longest`` steps before that to ``version``.
    """
    for held in (b"", *(one.model_id for one in history[-longest - 1 :] if one.digest != version.digest)):
        chain = chain_to(version, held, history)
        if chain:
            return chain
    return None


def useful(history: Sequence[ModelVersion], longest: int) -> int:
    """Return how many of the newest versions have steps that some chain of ``longest`` steps can use.

    Beyond those a chain would be longer, or larger than the whole model.
    """
    left = transfer_bytes(history[-1].whole) if history else 0
    for count, version in enumerate(reversed(history)):
        if version.step is None or count == longest:
            return count
        left -= version.step.size
        if left <= 0:
            return count
    return len(history)
