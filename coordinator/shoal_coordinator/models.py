"""Versions of the model as devices are offered them: by a small step, or whole from the broker."""

from dataclasses import dataclass

import structlog

from shoal_codecs.transport.blobs import BlobPublisher
from shoal_codecs.wire.blob import BlobRef
from shoal_codecs.wire.messages import ModelOffer
from shoal_coordinator.announcer import Announcer

log = structlog.get_logger()
MODEL_ID_BYTES = 8
MAX_INLINE_STEP_BYTES = 4096
"""A longer step does not travel inside an offer."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version: ``digest`` of its vector, ``whole`` its blob, ``step`` an encoded step from ``parent``.

    A version without a parent and with a step is drawn from a seed.
    """

    number: int
    digest: bytes
    whole: BlobRef
    parent: bytes = b""
    step: bytes = b""

    @property
    def model_id(self) -> bytes:
        """What heartbeats and evaluations call it."""
        return self.digest[:MODEL_ID_BYTES]


class ModelShelf:
    """The newest version, the candidate for the next, the task, and which of their blobs are retained.

    A whole model is put on the broker only once a device is known to need it; it is taken down when it is
    two versions old.
    """

    def __init__(self, publisher: BlobPublisher, announcer: Announcer, task: BlobRef) -> None:
        self._publisher = publisher
        self._announcer = announcer
        self._published: dict[bytes, BlobRef] = {}
        self._recent: list[ModelVersion] = []
        self.task = task
        self.candidate: ModelVersion | None = None
        self.source: BlobRef | None = None

    @property
    def newest(self) -> ModelVersion:
        """The last committed version."""
        return self._recent[-1]

    @property
    def last_step(self) -> bytes:
        """The encoded step that led from an earlier version to the newest, empty where there is none."""
        return self.newest.step if self.newest.parent else b""

    def lead(self, source: BlobRef | None) -> None:
        """Put the step that a round takes its coordinates from on the broker, and the last one's away."""
        earlier, self.source = self.source, source
        if earlier is not None and earlier != source:
            self._clear(earlier)
        if source is not None:
            self._publish(source)

    @property
    def has_any(self) -> bool:
        """Whether there is a version at all."""
        return bool(self._recent)

    def start(self, version: ModelVersion) -> None:
        """Take ``version`` as the newest and put the task on the broker."""
        self._recent = [version]
        self._publish(self.task)

    def promote(self, version: ModelVersion) -> None:
        """Make the committed candidate the newest; whole models two versions old leave the broker."""
        self.candidate = None
        self._recent.append(version)
        while len(self._recent) > 2:
            self._clear(self._recent.pop(0).whole)

    def discard(self) -> None:
        """Forget the candidate: its round was aborted."""
        if self.candidate is not None:
            self._clear(self.candidate.whole)
            self.candidate = None

    def offer(self, version: ModelVersion, held: bytes) -> ModelOffer:
        """Return what a device that holds ``held`` (8 bytes, or none) needs to get ``version``.

        One that holds it already, or its parent, or can draw it from a seed, needs nothing from the broker.
        """
        step = b""
        if held != version.model_id:
            if version.step and (not version.parent or held == version.parent[:MODEL_ID_BYTES]):
                step = version.step
            else:
                self._publish(version.whole)
        return ModelOffer(
            version=version.number,
            digest=version.digest,
            whole=version.whole,
            parent=version.parent if step else b"",
            step=step,
        )

    def want(self, digest: bytes) -> bool:
        """Put the blob a device asks for on the broker again; return whether it is one of these."""
        known = [self.task, *(version.whole for version in self._recent)]
        if self.candidate is not None:
            known.append(self.candidate.whole)
        if self.source is not None:
            known.append(self.source)
        for ref in known:
            if ref.digest == digest:
                self._publish(ref, again=True)
                return True
        return False

    def _publish(self, ref: BlobRef, *, again: bool = False) -> None:
        if ref.digest in self._published and not again:
            return
        self._published[ref.digest] = ref

        async def publish() -> None:
            await self._publisher.publish(ref)

        self._announcer.spawn(publish, f"blob {ref.name}")

    def _clear(self, ref: BlobRef) -> None:
        if any(version.digest == ref.digest for version in self._recent):
            return
        if self._published.pop(ref.digest, None) is None:
            return

        async def clear() -> None:
            await self._publisher.clear(ref)

        self._announcer.spawn(clear)
