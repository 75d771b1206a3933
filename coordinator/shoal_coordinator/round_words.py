"""What the coordinator says to hubs and devices while a round runs and when it ends."""

from shoal_codecs.wire import messages as wire
from shoal_codecs.wire.plan import Plan, plan_signing_bytes
from shoal_codecs.wire.single import Prekey
from shoal_coordinator import round_steps as on
from shoal_coordinator.chains import ModelVersion
from shoal_coordinator.round_parts import Outcome, RunnerParts


class RoundWords:
    """Composes the words of a round: nothing is decided here, and nobody waits for the broker."""

    def __init__(self, parts: RunnerParts) -> None:
        self._parts = parts

    def ask_reveal(self, facts: on.RoundFacts, hubs: tuple[str, ...]) -> None:
        """Ask hubs for the nonces that they have promised."""
        plan, promises = facts.plan, facts.promises
        for hub in hubs:
            self._parts.announcer.hub(
                hub, wire.RevealWanted, task=plan.task, base=plan.base, promises=promises
            )

    def propose(self, facts: on.RoundFacts, hubs: tuple[str, ...]) -> None:
        """Ask hubs to sign the plan, which the certificate book knows of already."""
        plan, book = facts.plan, self._parts.certificates
        for hub in hubs:
            self._parts.announcer.hub(
                hub,
                wire.PlanProposal,
                plan=facts.plan_bytes,
                signature=self._own_signature(facts),
                certificates=book.certificates(plan.task, plan.base),
            )

    def publish_plan(
        self, facts: on.RoundFacts, signatures: dict[str, bytes], prekeys: tuple[Prekey, ...]
    ) -> None:
        """Leave the plan at the broker with all ``signatures``; in mode ``single`` with key bundles."""
        parts, plan = self._parts, facts.plan
        topic = parts.topics.round(plan.round)
        payload = parts.announcer.encoded(
            topic,
            wire.PlanNotice,
            plan=facts.plan_bytes,
            signatures={parts.identity.name: self._own_signature(facts), **signatures},
            certificates=parts.certificates.certificates(plan.task, plan.base),
            prekeys=prekeys,
        )
        parts.announcer.spawn(lambda: parts.shelf.put(topic, payload))

    def take_plan_down(self, plan: Plan) -> None:
        """Take the plan off the broker."""
        parts, topic = self._parts, self._parts.topics.round(plan.round)
        parts.announcer.spawn(lambda: parts.shelf.remove(topic))

    def invite(self, plan: Plan, plan_hash: bytes, devices: tuple[str, ...]) -> None:
        """Invite devices, each with what it lacks of the newest model."""
        models, fleet = self._parts.models, self._parts.fleet
        for device in devices:
            self._parts.announcer.device(
                device,
                wire.Invitation,
                round=plan.round,
                plan_hash=plan_hash,
                task=models.task,
                model=models.offer(models.newest, fleet.model_held(device)),
                source=models.source,
                correction=models.control,
            )

    def ask_evaluation(self, plan: Plan, candidate: ModelVersion, devices: tuple[str, ...]) -> None:
        """Ask devices what the candidate is worth on their examples."""
        models, fleet = self._parts.models, self._parts.fleet
        for device in devices:
            held = fleet.model_held(device)
            # A member has trained on the base, whatever its last heartbeat said.
            offer = models.offer(candidate, held if held == candidate.model_id else candidate.parent[:8])
            self._parts.announcer.device(
                device, wire.Evaluate, round=plan.round, task=models.task, model=offer
            )

    def receipt(self, part: wire.ReportPart, plan_hash: bytes, device: str, report_id: bytes) -> None:
        """Tell a device that its report, of which ``part`` was the last to come, is kept."""
        self._parts.announcer.receipt(
            device,
            wire.Receipt,
            round=part.round,
            plan_hash=plan_hash,
            report_id=report_id,
            credit=part.count,
        )

    def withdraw(self, plan: Plan, plan_hash: bytes, hubs: tuple[str, ...], reason: str) -> None:
        """Tell hubs that the round is given up; they repeat their words until they know."""
        for hub in hubs:
            self._parts.announcer.hub(
                hub, wire.RoundAborted, round=plan.round, plan_hash=plan_hash, reason=reason
            )

    def ended(self, plan: Plan, hubs: tuple[str, ...], outcome: Outcome) -> None:
        """Tell hubs and whoever still works how the round ended."""
        announcer = self._parts.announcer
        if outcome.version is None:
            self.withdraw(plan, outcome.plan_hash, hubs, outcome.reason)
        else:
            for hub in hubs:
                announcer.hub(hub, wire.RoundCommitted, round=plan.round, plan_hash=outcome.plan_hash)
        for device in outcome.cohort:
            announcer.device(
                device, wire.Cancel, round=plan.round, plan_hash=outcome.plan_hash, reason=outcome.reason
            )

    def _own_signature(self, facts: on.RoundFacts) -> bytes:
        return self._parts.identity.sign(plan_signing_bytes(facts.plan_bytes))
