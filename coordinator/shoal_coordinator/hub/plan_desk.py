"""What a hub says before a round lives: promises, nonces shown, plans signed, plans renounced.

Everything runs under the performer's lock.
"""

from collections.abc import Callable

import structlog

from shoal_codecs.errors import ShoalError
from shoal_codecs.secagg.certificates import check_certified
from shoal_codecs.secagg.hub_errors import RenouncedPlanError
from shoal_codecs.secagg.hub_floors import Draw, HubFloors, check_plan
from shoal_codecs.secagg.hub_reveal import check_reveal
from shoal_codecs.security.identity import verify
from shoal_codecs.security.post import Post
from shoal_codecs.wire.hubs import HubPromise, never_released_bytes, promise_set_digest, promise_signing_bytes
from shoal_codecs.wire.messages import (
    NonceRevealed,
    PlanProposal,
    PlanRefused,
    RevealRefused,
    RevealWanted,
    RoundAbandoned,
    RoundAborted,
)
from shoal_codecs.wire.plan import Plan, decode_plan, plan_hash, plan_signing_bytes
from shoal_coordinator.hub.errors import HubStoreError, UnknownRoundError
from shoal_coordinator.hub.performer import Durably, RoundPerformer
from shoal_coordinator.hub.store import HubStore, StoredRound

log = structlog.get_logger()
RENOUNCED = "this hub signed no such plan and never will"
_PAUSE_MS = 500


class PlanDesk:
    """Answers the coordinator's questions about plans that are still to be made.

    ``on_promise`` is called with the next promise whenever the last one was shown.
    """

    def __init__(
        self,
        floors: HubFloors,
        post: Post,
        store: HubStore,
        durably: Durably,
        performer: RoundPerformer,
        on_promise: Callable[[HubPromise], None],
    ) -> None:
        self._floors = floors
        self._post = post
        self._name = post.identity.name
        self._store = store
        self._durably = durably
        self._performer = performer
        self._on_promise = on_promise
        self._coordinator = post.roster.sole("coordinator")
        self._keys = {name: post.roster.party(name).key for name in post.roster.names("hub")}
        self._hushed: dict[bytes, tuple[int, int]] = {}

    async def promise(self) -> HubPromise:
        """Return what this hub promises to the next plan, signed."""
        secrets = await self._durably(self._store.promises.present)
        commitment = secrets.commitment(self._name)
        signed = promise_signing_bytes(self._post.roster.fleet, self._name, secrets.key, commitment)
        return HubPromise(self._name, secrets.key, commitment, self._post.identity.sign(signed))

    # --- nonces ---------------------------------------------------------------------------------

    async def hear_wanted(self, message: RevealWanted) -> None:
        """Show the promised nonce, or say why not; the same question gets the same answer again."""
        digest = promise_set_digest(message.promises)
        try:
            draw = await self._durably(self._store.promises.shown)
            if draw is None or (draw.set_digest, draw.task, draw.base) != (
                digest,
                message.task,
                message.base,
            ):
                draw = await self._show(message, digest)
        except HubStoreError:
            raise
        except ShoalError as error:
            log.warning("nonce_refused", error=type(error).__name__, remedy=str(error))
            self._performer.tell(RevealRefused, set_digest=digest, reason=f"{type(error).__name__}: {error}")
            return
        offer = draw.offer
        self._performer.tell(NonceRevealed, set_digest=digest, nonce=offer.nonce, challenge=offer.challenge)
        self._on_promise(await self.promise())

    async def _show(self, message: RevealWanted, digest: bytes) -> Draw:
        store, now_ms = self._store, self._performer.now_ms()
        check_reveal(
            message,
            own=await self.promise(),
            roster=self._post.roster,
            floors=self._floors,
            answered=await self._durably(store.answered, message.task, message.base),
            wasted=await self._durably(store.promises.wasted),
            now_ms=now_ms,
        )
        draw: Draw = await self._durably(store.promises.show, digest, message.task, message.base, now_ms)
        await self._performer.logged()
        return draw

    # --- plans ----------------------------------------------------------------------------------

    async def sign(self, message: PlanProposal) -> tuple[Plan, StoredRound] | None:
        """Sign the proposed plan, durably, and return it; None where it was refused, and that was said."""
        digest, number = plan_hash(message.plan), 0
        try:
            plan = decode_plan(message.plan)
            number = plan.round
            verify(self._coordinator.key, plan_signing_bytes(message.plan), message.signature)
            return plan, await self._sign(plan, digest, message)
        except HubStoreError:
            raise
        except ShoalError as error:
            reason = f"{type(error).__name__}: {error}"
            log.warning("plan_refused", round=number, error=type(error).__name__, remedy=str(error))
            self._performer.tell(PlanRefused, round=number, plan_hash=digest, reason=reason)
            return None

    async def _sign(self, plan: Plan, digest: bytes, message: PlanProposal) -> StoredRound:
        store, now_ms = self._store, self._performer.now_ms()
        if await self._durably(store.renounced, digest):
            raise RenouncedPlanError(
                f"this hub has certified that round {plan.round} of this plan is never released: plan anew"
            )
        draw = await self._durably(store.promises.shown)
        check_plan(
            plan,
            hub=self._name,
            floors=self._floors,
            roster=self._post.roster,
            draw=draw,
            answered=await self._durably(store.answered, plan.task, plan.base),
            rounds=await self._durably(store.numbers, plan.round),
            now_ms=now_ms,
        )
        for earlier, data in await self._durably(store.earlier, plan.task, plan.base):
            hubs = [offer.hub for offer in decode_plan(data).hubs]
            check_certified(earlier, hubs, message.certificates, self._keys)
        signature = self._post.identity.sign(plan_signing_bytes(message.plan))
        stored: StoredRound = await self._durably(
            store.sign, digest, message.plan, plan, signature, draw, now_ms
        )
        await self._performer.logged()
        log.info("plan_signed", round=plan.round, devices=len(plan.cohort))
        return stored

    async def renounce(self, message: RoundAborted) -> None:
        """Certify that a plan this hub holds no round of is never released, if that is so.

        Raises:
            UnknownRoundError: this hub released its sum of it long ago.
        """
        digest = message.plan_hash
        if not await self._durably(self._store.renounce, digest, self._performer.now_ms()):
            raise UnknownRoundError(
                f"the sum of round {message.round} was released long ago and can be called back by nobody"
            )
        await self._performer.logged()
        # The coordinator answers this answer: seldomer each time, or the two would never end.
        now_ms = self._performer.now_ms()
        pause_ms, until_ms = self._hushed.get(digest, (_PAUSE_MS, 0))
        if now_ms < until_ms:
            return
        self._hushed[digest] = (2 * pause_ms, now_ms + 2 * pause_ms)
        self._performer.tell(
            RoundAbandoned,
            round=message.round,
            plan_hash=digest,
            reason=RENOUNCED,
            certificate=self._post.identity.sign(never_released_bytes(digest)),
        )
