"""The way out where a base is spent: a hub released its sum of it and no version ever comes of that.

No hub sums for such a base again, and no device opens masks on one twice. So the operator makes the next
version, which is the present one but for the last place of one weight. That trains nothing and reveals
nothing.
"""

import asyncio

from shoal_codecs.wire.plan import decode_plan
from shoal_coordinator.aggregation import unmoved
from shoal_coordinator.chains import ModelVersion, with_step
from shoal_coordinator.ledger import Ledger
from shoal_coordinator.organs import Organs
from shoal_coordinator.round_errors import NothingToSkipError
from shoal_coordinator.round_parts import Outcome


class VersionSkipper:
    """Makes the next version by hand; ``wanted`` is why, once the round under way has ended."""

    def __init__(self, organs: Organs) -> None:
        self._organs = organs
        self.wanted = ""

    @property
    def _ledger(self) -> Ledger:
        return self._organs.ledger

    async def skip(self, reason: str) -> Outcome:
        """Store the next version, like the present one, and return the outcome that made it.

        Raises:
            NothingToSkipError: every hub has given up every plan on the present version, and there was none
                of mode ``single``.
        """
        organs, models = self._organs, self._organs.models
        base = models.newest
        if not organs.certificates.closed(models.task.digest, base.digest):
            raise NothingToSkipError(
                f"version {base.number} can still be trained on, for no sum of it was released: run a round"
            )
        plan = decode_plan(organs.certificates.newest_plan(models.task.digest, base.digest))
        vector = await asyncio.to_thread(organs.blobs.read, base.whole.name)
        made = await asyncio.to_thread(unmoved, plan, vector, reason)
        ref = await asyncio.to_thread(organs.blobs.put, made.data)
        step = await asyncio.to_thread(organs.blobs.put, made.step) if made.step else None
        following = ModelVersion(base.number + 1, made.digest, ref, base.digest, step, state=base.state)
        version = with_step(following, organs.blobs)
        number = await self._ledger.take_number()
        outcome = Outcome(round=number, plan_hash=b"", version=version, reason=reason)
        await self._ledger.close(outcome)
        models.promote(version)
        if organs.schedule.target > base.number:
            # It takes no round away from those that were asked for.
            await self._ledger.save_target(organs.schedule.run_more(1, base.number))
        organs.fleet.know_version(version.model_id, version.number)
        organs.announcer.event(
            "round.skipped",
            f"version {base.number} is skipped, version {version.number} is like it: {reason}",
            round=number,
            version=version.number,
            reason=reason,
        )
        return outcome
