"""The coordinator's book of plans on the present base, and of the hubs' words that they are never released.

A hub signs a second plan on a base, and a device answers one, only with every hub's certificate for the
first (mode ``hubs``, step 11). What is not in the book when the coordinator starts again would be lost.
"""

from collections.abc import Mapping

import msgspec

from shoal_codecs.secagg.certificates import check_certificate
from shoal_codecs.security.roster import Roster
from shoal_codecs.wire.hubs import NeverReleased
from shoal_codecs.wire.packing import pack
from shoal_codecs.wire.plan import decode_plan, plan_hash
from shoal_coordinator.store import Store

_KEY = "certificates"


class _Earlier(msgspec.Struct, frozen=True, array_like=True):
    round: int
    plan: bytes
    signatures: dict[str, bytes]


class _Page(msgspec.Struct, frozen=True, array_like=True):
    """All plans on one base, by plan hash, oldest first."""

    task: bytes = b""
    base: bytes = b""
    plans: dict[bytes, _Earlier] = {}


class CertificateBook:
    """Plans proposed on one (task, base) and the hubs' certificates for them."""

    def __init__(self, store: Store, roster: Roster) -> None:
        self._store = store
        self._keys = {name: roster.party(name).key for name in roster.names("hub")}
        self._page = _Page()

    async def load(self) -> None:
        """Read the book."""
        self._page = await self._store.get_record(_KEY, _Page) or _Page()

    async def propose(self, data: bytes) -> None:
        """Write down that the plan in ``data`` (as signed) is proposed, before anybody else hears of it."""
        plan, digest = decode_plan(data), plan_hash(data)
        page = self._of(plan.task, plan.base)
        if digest in page.plans:
            return
        # Of rounds of mode ``single`` one says all there is to say: the base may be closed.
        kept = {name: one for name, one in page.plans.items() if plan.mode != "single" or _hubs_of(one)}
        plans = {**kept, digest: _Earlier(plan.round, data, {})}
        await self._save(_Page(plan.task, plan.base, plans))

    async def take(self, digest: bytes, hub: str, certificate: bytes) -> bool:
        """Store a hub's certificate; return whether it was wanted and is new.

        Raises:
            BadCertificateError: the hub did not sign it for this plan.
        """
        earlier = self._page.plans.get(digest)
        if earlier is None or hub not in self._keys or hub in earlier.signatures:
            return False
        check_certificate(digest, hub, self._keys[hub], certificate)
        taken = msgspec.structs.replace(earlier, signatures={**earlier.signatures, hub: certificate})
        await self._save(msgspec.structs.replace(self._page, plans={**self._page.plans, digest: taken}))
        return True

    def missing(self, task: bytes, base: bytes) -> Mapping[tuple[int, bytes], tuple[str, ...]]:
        """Return the hubs whose certificates lack, by (round, plan hash) of the plans on this base.

        They are the plan's own hubs: one that has left the roster since will lack for good.
        """
        return {
            (one.round, digest): lacking
            for digest, one in self._of(task, base).plans.items()
            if (lacking := tuple(hub for hub in _hubs_of(one) if hub not in one.signatures))
        }

    def certificates(self, task: bytes, base: bytes) -> tuple[NeverReleased, ...]:
        """Return what was certified of the plans on this base."""
        plans = self._of(task, base).plans.items()
        return tuple(NeverReleased(digest, one.signatures) for digest, one in plans if one.signatures)

    def newest_plan(self, task: bytes, base: bytes) -> bytes:
        """Return the newest plan on this base as it was proposed, or nothing."""
        plans = tuple(self._of(task, base).plans.values())
        return plans[-1].plan if plans else b""

    def _of(self, task: bytes, base: bytes) -> _Page:
        return self._page if (self._page.task, self._page.base) == (task, base) else _Page(task, base)

    def closed(self, task: bytes, base: bytes) -> bool:
        """Return whether this base may be closed for good: to hubs, or to devices that opened masks on it."""
        modes = {decode_plan(one.plan).mode for one in self._of(task, base).plans.values()}
        return "single" in modes or bool(self.missing(task, base))

    async def _save(self, page: _Page) -> None:
        await self._store.set_value(_KEY, pack(page))
        self._page = page


def _hubs_of(earlier: _Earlier) -> tuple[str, ...]:
    plan = decode_plan(earlier.plan)
    return tuple(offer.hub for offer in plan.hubs) if plan.mode == "hubs" else ()
