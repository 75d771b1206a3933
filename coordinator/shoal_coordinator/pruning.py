"""Which files of old versions go: whole vectors that no release needs, steps that no chain needs."""

import structlog

from shoal_codecs.transport.blobs import BlobPublisher
from shoal_codecs.wire.blob import BlobRef
from shoal_coordinator.store import Store

log = structlog.get_logger()
_WHOLES = "pruned-wholes"
_STEPS = "pruned-steps"
_FIRST = 0


class Pruner:
    """Drops the files of versions that are ``kept`` or more versions old, and of steps out of reach.

    What a release refers to stays, and so does the first version, which any fleet can go back to. A blob is
    off the broker before its file goes, and how far this has come is stored after that: a restart goes on
    there.
    """

    def __init__(self, store: Store, publisher: BlobPublisher, kept: int) -> None:
        self._store = store
        self._publisher = publisher
        self._kept = kept

    async def prune(self, newest: int, first_step: int) -> None:
        """Drop what is too old where ``newest`` is the last version and chains begin at ``first_step``.

        Raises:
            StoreError: the database does not answer.
            TransportError: the broker went away; the rest goes next time.
        """
        released = {release.version for release in await self._store.releases()}
        await self._advance(_STEPS, first_step, frozenset())
        await self._advance(_WHOLES, newest - self._kept + 1, frozenset(released | {_FIRST}))

    async def _advance(self, mark: str, end: int, released: frozenset[int]) -> None:
        begin = int(await self._store.get_value(mark) or b"0")
        for number in range(begin, end):
            version = await self._store.version(number)
            ref = version.step if mark == _STEPS else version.whole
            if ref is not None and number not in released:
                await self._drop(ref)
                log.info("pruned", version=number, blob=ref.name, mark=mark)
            if mark == _WHOLES and version.state is not None:
                await self._drop_state(number, version.state)
            await self._store.set_value(mark, str(number + 1).encode())

    async def _drop_state(self, number: int, state: BlobRef) -> None:
        """Drop the algorithm's state of a version, unless the next one was made with the same."""
        if (await self._store.version(number + 1)).state != state:
            self._store.blobs.drop(state.name)

    async def _drop(self, ref: BlobRef) -> None:
        await self._publisher.clear(ref)
        self._store.blobs.drop(ref.name)
