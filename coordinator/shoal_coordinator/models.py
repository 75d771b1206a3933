"""Versions of the model as devices are offered them, and what of them is on the broker."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace

import structlog

from shoal_codecs.transport.blobs import BlobPublisher
from shoal_codecs.wire.blob import BlobRef
from shoal_codecs.wire.messages import ModelOffer
from shoal_coordinator.announcer import Announcer
from shoal_coordinator.chains import ModelVersion, chain_to, longest_to, useful

log = structlog.get_logger()
WHOLES = 2
"""So many of the newest versions may be fetched whole."""


class ModelShelf:
    """The newest versions, the candidate for the next, the task, and which of their blobs are retained.

    Steps of the newest versions are kept for devices that are behind: at most ``longest_chain``, and no more
    than the whole model has bytes. A blob is put on the broker only once a device is known to need it; it is
    taken down when nothing refers to it any more. The newest two versions can be fetched whole.
    """

    def __init__(
        self, publisher: BlobPublisher, announcer: Announcer, task: BlobRef, longest_chain: int = 32
    ) -> None:
        self._publisher = publisher
        self._announcer = announcer
        self._longest_chain = longest_chain
        self._published: dict[bytes, BlobRef] = {}
        self._turns: dict[bytes, asyncio.Lock] = {}
        self._recent: list[ModelVersion] = []
        self.task = task
        self.candidate: ModelVersion | None = None
        self.source: BlobRef | None = None
        self.control: BlobRef | None = None

    @property
    def newest(self) -> ModelVersion:
        """The last committed version."""
        return self._recent[-1]

    @property
    def last_step(self) -> BlobRef | None:
        """The encoded step that led from an earlier version to the newest, None where there is none."""
        return self.newest.step if self.newest.parent else None

    @property
    def has_any(self) -> bool:
        """Whether there is a version at all."""
        return bool(self._recent)

    @property
    def first_step(self) -> int:
        """The oldest version whose step a chain may still use."""
        return self.newest.number - useful(self._recent, self._longest_chain) + 1

    def start(self, versions: Sequence[ModelVersion]) -> None:
        """Take ``versions`` (oldest first, at least one) and put the task on the broker."""
        self._recent = list(versions)
        self._trim()
        self._publish(self.task)

    def promote(self, version: ModelVersion) -> None:
        """Make the committed candidate the newest; what nobody needs any more leaves the broker."""
        self.candidate = None
        self._recent.append(version)
        self._trim()

    def discard(self) -> None:
        """Forget the candidate: its round was aborted."""
        if self.candidate is not None:
            self.candidate = None
            self._trim()

    def lead(self, source: BlobRef | None, control: BlobRef | None = None) -> None:
        """Put the step of a round's coordinates, and its control, on the broker; None: it is over."""
        self.source, self.control = source, control
        for ref in (source, control):
            if ref is not None:
                self._publish(ref)
        self._trim()

    def offer(self, version: ModelVersion, held: bytes | None) -> ModelOffer:
        """Return what a device needs that holds ``held``: 8 bytes, empty for none, None for not known.

        One that holds it already, or its parent and needs a short step only, or can draw it from a seed,
        needs nothing from the broker; one that is behind gets the steps it lacks, where they are smaller
        than the whole. Of one that has not said what it holds all steps are offered: it takes those it lacks.
        """
        chain = (
            longest_to(version, self._recent, self._longest_chain)
            if held is None
            else chain_to(version, held, self._recent)
        )
        step, blobs = b"", tuple[BlobRef, ...]()
        if chain is None:
            self._publish(version.whole)
        elif len(chain) == 1 and version.inline:
            step = version.inline
        else:
            blobs = tuple(one.step for one in chain if one.step is not None)
            for ref in blobs:
                self._publish(ref)
        return ModelOffer(
            version=version.number,
            digest=version.digest,
            whole=version.whole,
            parent=chain[0].parent if chain else b"",
            step=step,
            chain=blobs,
        )

    def want(self, digest: bytes) -> bool:
        """Put the blob a device asks for on the broker again; return whether it is one of these."""
        wanted = next((ref for ref in self._in_use() if ref.digest == digest), None)
        if wanted is not None:
            self._publish(wanted, again=True)
        return wanted is not None

    def uses(self, ref: BlobRef) -> bool:
        """Return whether a device may still need the blob ``ref``."""
        return any(one.digest == ref.digest for one in self._in_use())

    def _in_use(self) -> Iterator[BlobRef]:
        yield self.task
        candidate = (self.candidate,) if self.candidate else ()
        yield from (version.whole for version in (*self._recent[-WHOLES:], *candidate))
        first = len(self._recent) - useful(self._recent, self._longest_chain)
        yield from (version.step for version in (*self._recent[first:], *candidate) if version.step)
        yield from (ref for ref in (self.source, self.control) if ref is not None)

    def _trim(self) -> None:
        count = useful(self._recent, self._longest_chain)
        del self._recent[: -max(WHOLES, count + 1)]
        # A step that leaves the broker leads nobody anywhere, though its version may be fetched whole.
        for place, version in enumerate(self._recent[: min(-count, -1)]):
            self._recent[place] = replace(version, step=None, inline=b"")
        in_use = {ref.digest for ref in self._in_use()}
        for digest in [digest for digest in self._published if digest not in in_use]:
            self._clear(self._published.pop(digest))

    def _publish(self, ref: BlobRef, *, again: bool = False) -> None:
        if ref.digest in self._published and not again:
            return
        self._published[ref.digest] = ref
        self._announcer.spawn(lambda: self._in_turn(ref, self._publisher.publish), f"blob {ref.name}")

    def _clear(self, ref: BlobRef) -> None:
        async def clear() -> None:
            await self._in_turn(ref, self._publisher.clear)
            self._turns.pop(ref.digest, None)

        self._announcer.spawn(clear)

    async def _in_turn(self, ref: BlobRef, work: Callable[[BlobRef], Awaitable[None]]) -> None:
        """Do one thing with a blob's topics at a time: what was asked for last stands."""
        async with self._turns.setdefault(ref.digest, asyncio.Lock()):
            await work(ref)
