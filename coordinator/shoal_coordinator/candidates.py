"""What a round makes: its candidate, computed aside, written down, told of, or dropped."""

import asyncio
from dataclasses import dataclass, replace

import structlog

from shoal_codecs.secagg.errors import SecAggError
from shoal_codecs.security.errors import SecurityError
from shoal_codecs.transport.errors import BlobStorageError
from shoal_codecs.updates.errors import UpdateError
from shoal_codecs.wire.errors import WireError
from shoal_codecs.wire.plan import Plan
from shoal_coordinator import round_steps as on
from shoal_coordinator.aggregation import (
    Candidate,
    Server,
    aggregate_reports,
    aggregate_sums,
    aggregate_words,
    unmoved,
)
from shoal_coordinator.chains import ModelVersion, with_step
from shoal_coordinator.plain import PlainCollector
from shoal_coordinator.round_errors import AggregationError, RoundError, UnstableRoundError
from shoal_coordinator.round_parts import RunnerParts
from shoal_coordinator.single_desk import SingleDesk

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Harvest:
    """What a candidate is made of: the plan, its hash, and where its reports or masked vectors lie."""

    plan: Plan
    plan_hash: bytes
    collector: PlainCollector | None
    single: SingleDesk | None


class CandidateMaker:
    """Makes candidates for the version after the newest."""

    def __init__(self, parts: RunnerParts) -> None:
        self._parts = parts

    async def make(self, harvest: Harvest, work: on.Aggregate) -> on.RoundEvent:
        """Make the candidate of ``harvest`` and keep its files; return what the round is to be told.

        Raises:
            Exception: this machine's fault, not the round's.
        """
        try:
            candidate = await asyncio.to_thread(self._checked, harvest, work)
            self._parts.models.candidate = await self._kept(candidate)
            self._say_what_is_odd(candidate)
            await self._learn(harvest.plan, candidate)
        except (RoundError, UpdateError) as error:
            return on.AggregationFailed(f"{type(error).__name__}: {error}")
        return on.Aggregated()

    async def revert(self, plan: Plan, reason: str) -> None:
        """Put the base, but for a trifle, in the place of a candidate that is no good."""
        parts = self._parts
        base = await asyncio.to_thread(parts.blobs.read, parts.models.newest.whole.name)
        made = await asyncio.to_thread(lambda: unmoved(plan, base, reason, self._server()))
        self.drop()
        parts.models.candidate = await self._kept(made)
        self._say_what_is_odd(made)

    def drop(self) -> None:
        """Forget a candidate whose round was aborted, and its files."""
        parts, candidate = self._parts, self._parts.models.candidate
        parts.models.discard()
        kept = parts.models.newest.state
        for ref in (candidate.whole, candidate.step, candidate.state) if candidate else ():
            if ref is not None and ref != kept and not parts.models.uses(ref):
                parts.blobs.drop(ref.name)

    async def _kept(self, candidate: Candidate) -> ModelVersion:
        """Write a candidate's files and return it as the version after the newest."""
        blobs, newest = self._parts.blobs, self._parts.models.newest
        whole, step, state = [
            await asyncio.to_thread(blobs.put, data) if data else None
            for data in (candidate.data, candidate.step, candidate.state)
        ]
        if whole is None:
            raise AggregationError("a version without weights: report this as a defect")
        version = ModelVersion(
            newest.number + 1,
            candidate.digest,
            whole,
            newest.digest,
            step,
            state=state,
            update_norm=candidate.update_norm,
        )
        return with_step(version, blobs)

    def _say_what_is_odd(self, candidate: Candidate) -> None:
        announcer = self._parts.announcer
        if candidate.fault:
            announcer.event("round.unmoved", f"the model stays as it is: {candidate.fault}")
        if candidate.bounded:
            announcer.event(
                "round.bounded", "the sum was longer than honest devices can make it; it was shortened"
            )

    async def _learn(self, plan: Plan, candidate: Candidate) -> None:
        """Keep what the round's further coordinates tell, and say it with the error that noise adds."""
        parts, told = self._parts, candidate.told
        newest = parts.models.newest.number
        following = await parts.told.learn(newest + 1, plan.codec.clip_norm, told)
        fields: dict[str, float] = {"round": plan.round, "version": newest}
        words = []
        for name, (value, error) in told.by_name().items():
            fields |= {name: value, f"{name}_error": error}
            words.append(f"{name} {value:.3f} +- {error:.3f}")
        if told.clipped is not None:
            fields["clip_norm"] = following
        if words:
            parts.announcer.event("round.told", f"version {newest} with noise: {', '.join(words)}", **fields)

    def _checked(self, harvest: Harvest, work: on.Aggregate) -> Candidate:
        """Return the candidate, or in the shared modes the base in its place where it is out of bounds.

        Raises:
            UnstableRoundError: it is, and the base can be trained on again.
        """
        plan, made = harvest.plan, self._compute(harvest, work)
        fault = self._parts.stability.norm_fault(made.update_norm)
        if not fault:
            return made
        if not plan.shared:
            raise UnstableRoundError(fault)
        base = self._parts.blobs.read(self._parts.models.newest.whole.name)
        return replace(unmoved(plan, base, fault, self._server()), told=made.told)

    def _compute(self, harvest: Harvest, work: on.Aggregate) -> Candidate:
        parts, plan, collector = self._parts, harvest.plan, harvest.collector
        base = parts.blobs.read(parts.models.newest.whole.name)
        source = parts.blobs.read(plan.codec.source.hex()) if plan.codec.source else b""
        server = self._server()
        if harvest.single is not None and collector is not None:
            try:
                words = harvest.single.unmasked(collector.vector_sum(work.members))
                return aggregate_words(plan, base, words, server, source, len(work.members), parts.levels)
            except (SecurityError, SecAggError, UpdateError, WireError, RoundError) as error:
                # Devices have opened masks on this base and do so once.
                return unmoved(plan, base, f"{type(error).__name__}: {error}", server)
        if collector is not None:
            shares = collector.shares(work.members)
            late = parts.late.shares(work.late, parts.models.newest.number) if parts.late else []
            return aggregate_reports(plan, base, shares, server, parts.levels, late)
        private = parts.identity.sealing_private()
        try:
            return aggregate_sums(
                plan,
                harvest.plan_hash,
                base,
                work.set_digest,
                work.sums,
                private,
                server,
                source,
                len(work.members),
                parts.levels,
            )
        except (SecurityError, SecAggError, UpdateError) as error:
            return unmoved(plan, base, f"{type(error).__name__}: {error}", server)

    def _server(self) -> Server:
        """Return how the model moves from the newest version; blocking."""
        parts, newest = self._parts, self._parts.models.newest
        memory = b""
        if newest.state is not None:
            try:
                memory = parts.blobs.read(newest.state.name)
            except BlobStorageError as error:
                log.warning("algorithm begins anew", version=newest.number, remedy=str(error))
        return parts.server.at(newest.number, memory)
