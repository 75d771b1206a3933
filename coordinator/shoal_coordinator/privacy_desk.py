"""The privacy budget as operators meet it: what is refused, what is left, and what is shown."""

import asyncio
from collections.abc import Sequence
from typing import Any

from shoal_codecs.privacy.errors import BudgetExceededError
from shoal_codecs.wire.heartbeat import Reading
from shoal_codecs.wire.messages import Reply
from shoal_codecs.wire.status import PrivacyRow
from shoal_coordinator.privacy_book import DECLINED, PrivacyBook
from shoal_coordinator.privacy_reference import reference_epsilons
from shoal_coordinator.privacy_terms import PrivacyTerms
from shoal_coordinator.registry import DeviceView
from shoal_coordinator.round_errors import NoPrivacyError, UnknownDeviceError

OWN_BUDGET = frozenset({"BudgetExceededError", "UnprivateRoundError"})
"""How a device's reason begins that will not take part again as long as it runs."""
MOST_DEVICES, MOST_ROUNDS = 500, 200


class PrivacyDesk:
    """What the coordinator asks of ``book`` for its ``devices``.

    ``cohort`` of them are invited to a full round, everybody where it is 0; ``minimum`` are the fewest.
    """

    def __init__(self, book: PrivacyBook, devices: Sequence[str], cohort: int, minimum: int) -> None:
        self.book = book
        self._devices = tuple(devices)
        self._cohort = cohort
        self._minimum = max(minimum, 1)
        self._closed: set[str] = set()

    async def hear(self, message: Reply) -> bool:
        """Take a device's word; return whether it is about a plan with noise, of whatever round."""
        if not message.accepted and message.reason.partition(":")[0] in OWN_BUDGET:
            # Asking again would take the round of others below its floor, at their expense.
            self._closed.add(message.sender)
        found = self.book.find(message.round, message.plan_id)
        if found:
            await self.book.replied(message.sender, found, accepted=message.accepted, unsent=message.unsent)
        return bool(found)

    def started(self, device: str) -> None:
        """Note that a device has started anew: its owner may have changed its budget."""
        self._closed.discard(device)

    def spent(self) -> frozenset[str]:
        """Return the devices that cannot pay for another round, by their own word or by ours."""
        return self.book.out_of_budget(self._devices) | self._closed

    def rounds_left(self) -> int:
        """Return how many rounds can still be filled."""
        open_ones = [device for device in self._devices if device not in self._closed]
        if self._cohort:
            return self.book.rounds_left(open_ones, self._cohort)
        # Where everybody who can pay is invited, the last round is the last of the minimum that can.
        left = sorted(map(self.book.left, open_ones), reverse=True)
        return left[self._minimum - 1] if len(left) >= self._minimum else 0

    def over(self) -> str:
        """Return why no round can be filled any more, whoever comes online; empty while one can."""
        terms = self.book.terms
        if terms is None:
            return ""
        able = len(self._devices) - len(self.spent())
        if able >= self._minimum:
            return ""
        return (
            f"the privacy budget of epsilon {terms.epsilon:g} is spent: {able} devices can pay for another "
            f"round and {self._minimum} are needed; enrol more, or let their owners and you raise the budgets"
        )

    def refuse_rounds(self, wanted: int) -> None:
        """Refuse more rounds than can be paid for.

        Raises:
            BudgetExceededError: with how many would fit.
        """
        terms = self.book.terms
        if terms is None:
            return
        left = self.rounds_left()
        if wanted > left:
            raise BudgetExceededError(
                f"{wanted} rounds more do not fit into epsilon {terms.epsilon:g}: "
                f"{self.book.largest():.2f} is spent and {left} rounds would fit; "
                f"{'ask for those, or ' if left else ''}raise the budget, and let the devices' owners do so"
            )

    def row(self, views: Sequence[DeviceView]) -> PrivacyRow | None:
        """Return the budget for a status view, None where rounds add no noise."""
        terms, book = self.book.terms, self.book
        if terms is None:
            return None
        trusted = [view for view in views if view.trusted]
        everything = bool(trusted) and all(view.text(Reading.METRICS) == "none" for view in trusted)
        return PrivacyRow(
            mechanism=terms.mechanism,
            epsilon=terms.epsilon,
            delta=terms.delta,
            spent=book.largest(),
            spent_by_task=book.task_epsilon(),
            rounds_left=self.rounds_left(),
            covers="everything" if everything else "updates only",
            warning=terms.warning,
        )

    async def show(self, device: str, views: Sequence[DeviceView]) -> tuple[str, dict[str, Any]]:
        """Return the words and fields that answer ``privacy.show``.

        Raises:
            NoPrivacyError: rounds add no noise.
            UnknownDeviceError: nobody of that name is enrolled.
        """
        terms, row = self.book.terms, self.row(views)
        if terms is None or row is None:
            raise NoPrivacyError("rounds add no noise here: set rounds.privacy.mechanism to 'auto'")
        if device and device not in self._devices:
            raise UnknownDeviceError(f"no device is called {device[:64]!r}: see 'shoal status'")
        fields: dict[str, Any] = {name: getattr(row, name) for name in row.__struct_fields__}
        fields["rounds"] = terms.rounds
        shown = (device,) if device else self._by_epsilon()[:MOST_DEVICES]
        histories = {name: self.book.history(name) for name in shown}
        references = await asyncio.to_thread(_references, tuple(histories.values()), terms)
        fields["devices"] = [self._device(name, references[history]) for name, history in histories.items()]
        fields["more"] = len(self._devices) - len(shown) if not device else 0
        if device:
            fields["charges"] = self._charges(device)
        return f"epsilon {row.spent:.2f} of {row.epsilon:g} spent, {row.rounds_left} rounds left", fields

    def _by_epsilon(self) -> list[str]:
        return sorted(self._devices, key=lambda name: (-self.book.epsilon(name), name))

    def _device(self, name: str, reference: tuple[float | None, float | None]) -> dict[str, Any]:
        return {
            "name": name,
            "rounds": self.book.rounds(name),
            "epsilon": self.book.epsilon(name),
            "rounds_left": self.book.left(name),
            "declines": name in self._closed,
            "rdp": reference[0],
            "pld": reference[1],
        }

    def _charges(self, device: str) -> list[dict[str, Any]]:
        return [
            {
                "round": plan.round,
                "task": plan.task.hex()[:16],
                "mechanism": plan.mechanism,
                "noise": plan.noise,
                "state": state,
                "charged": state != DECLINED,
                "at_ms": plan.at_ms,
            }
            for plan, state in self.book.states(device)[-MOST_ROUNDS:]
        ]


def _references(
    histories: tuple[tuple[tuple[str, float, int], ...], ...], terms: PrivacyTerms
) -> dict[tuple[tuple[str, float, int], ...], tuple[float | None, float | None]]:
    return {history: reference_epsilons(history, terms.delta) for history in set(histories)}
