"""A hub's own floors, and the plans it signs because they keep them; pure."""

import math
from collections.abc import Container, Iterator
from dataclasses import dataclass

import msgspec

from shoal_codecs.privacy.errors import PrivacyError
from shoal_codecs.privacy.promise import check_promise
from shoal_codecs.secagg.hub_errors import (
    BaseAnsweredError,
    LoweredFloorError,
    PlanCohortError,
    PlanDrawError,
    PlanHubsError,
    PlanModeError,
    PlanOfferError,
    PlanPromiseError,
    PlanRefusedError,
    PlanRosterError,
    PlanSizeError,
    PlanWindowError,
    RoundReusedError,
)
from shoal_codecs.secagg.norm_bound import norm_fault
from shoal_codecs.security.roster import Roster
from shoal_codecs.settings import AtLeastOne, Count, Period, Seconds, Share
from shoal_codecs.updates.errors import UpdateError
from shoal_codecs.wire.hubs import promise_of, promise_set_digest
from shoal_codecs.wire.plan import HubOffer, Plan

# 0.8 * 15 must be 12 and not the thirteenth part of a float's last digit more.
_FLOAT_SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class Draw:
    """A nonce that was shown: the offer with it, and the promises, task and base (digests) it is for."""

    offer: HubOffer
    set_digest: bytes
    task: bytes
    base: bytes


class HubFloors(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a hub asks of every plan.

    No sum is released over fewer than ``n_min`` reports, nor over less than ``cohort_share`` of the
    cohort. A round may stay open ``longest_round_s`` and begin ``clock_skew_s`` ahead of this hub's clock;
    ``linger_s`` after its end a hub that has not agreed gives it up, ``silence_s`` after it one that has
    agreed and whose peers have not. A share has at most ``most_values`` values. After ``free_draws`` draws
    of coordinates in a row that came to no sum there is one every ``draw_pause_s``. ``norm_check`` allows
    plans with one, which shows each hub projections of every update.
    """

    n_min: AtLeastOne = 3
    cohort_share: Share = 0.8
    longest_round_s: Period = 86_400.0
    clock_skew_s: Seconds = 60.0
    linger_s: Seconds = 10.0
    silence_s: Seconds = 300.0
    most_values: AtLeastOne = 1 << 26
    free_draws: Count = 16
    draw_pause_s: Seconds = 300.0
    norm_check: bool = False

    def least_reports(self, cohort: int) -> int:
        """Return the fewest reports this hub adds up for a cohort of that many devices."""
        return max(self.n_min, math.ceil(self.cohort_share * cohort - _FLOAT_SLACK))


def check_plan(
    plan: Plan,
    *,
    hub: str,
    floors: HubFloors,
    roster: Roster,
    draw: Draw | None,
    answered: Container[tuple[bytes, bytes]],
    rounds: Container[int],
    now_ms: int,
) -> None:
    """Refuse a plan that ``hub`` may not sign.

    ``draw`` is what this hub has shown last and signed no plan with; ``answered`` holds the (task, base)
    digests it signed a plan for and did not abandon, ``rounds`` the round numbers it has seen in plans.

    Raises:
        PlanRefusedError: one of its kinds, naming what to change.
    """
    for holds, kind, fault in (*_belonging(plan, hub, roster, draw), *_bounds(plan, floors, now_ms)):
        if not holds:
            raise kind(fault)
    try:
        check_promise(plan)
    except (PrivacyError, UpdateError) as error:
        raise PlanPromiseError(f"{type(error).__name__}: {error}") from error
    if (plan.task, plan.base) in answered:
        raise BaseAnsweredError(
            f"this hub answered for base {plan.base.hex()[:16]} already: finish that round, or abort it and "
            "wait until every hub has abandoned it"
        )
    if plan.round in rounds:
        raise RoundReusedError(f"round {plan.round} stood in another plan: take the next number")


def _belonging(
    plan: Plan, hub: str, roster: Roster, draw: Draw | None
) -> Iterator[tuple[bool, type[PlanRefusedError], str]]:
    yield plan.mode == "hubs", PlanModeError, f"mode {plan.mode!r} has no part for hubs: propose mode 'hubs'"
    fault = norm_fault(plan)
    yield not fault, PlanPromiseError, fault
    yield (
        plan.fleet == roster.fleet,
        PlanRosterError,
        f"the plan is for fleet {plan.fleet!r}, this hub belongs to {roster.fleet!r}: set `fleet` right",
    )
    yield (
        plan.roster == roster.digest,
        PlanRosterError,
        "the plan names another roster: give coordinator and hubs the newest one and start them again",
    )
    named = tuple(sorted(one.hub for one in plan.hubs))
    yield (
        named == roster.names("hub"),
        PlanHubsError,
        f"the plan names the hubs {list(named)}, the roster {list(roster.names('hub'))}: name all of them",
    )
    yield (
        draw is not None and draw.offer in plan.hubs,
        PlanOfferError,
        f"the plan does not name what {hub} has shown last: ask for the nonces anew",
    )
    yield (
        draw is not None
        and promise_set_digest(tuple(promise_of(one) for one in plan.hubs)) == draw.set_digest
        and (plan.task, plan.base) == (draw.task, draw.base),
        PlanDrawError,
        f"the plan has other nonces, task or base than {hub} has shown its nonce for: plan with those",
    )
    strangers = [device for device in plan.cohort if roster.role(device) != "device"]
    yield not strangers, PlanCohortError, f"{strangers[:3]} are no devices on the roster: invite only those"


def _bounds(plan: Plan, floors: HubFloors, now_ms: int) -> Iterator[tuple[bool, type[PlanRefusedError], str]]:
    least = floors.least_reports(len(plan.cohort))
    yield (
        plan.n_min >= least,
        LoweredFloorError,
        f"n_min {plan.n_min} for a cohort of {len(plan.cohort)} is under the floor of {least} here: raise it",
    )
    yield now_ms < plan.closes_ms, PlanWindowError, "the plan is over: make one that is still open"
    yield (
        plan.opens_ms <= now_ms + floors.clock_skew_s * 1000,
        PlanWindowError,
        "the plan opens in this hub's future: set the clocks",
    )
    yield (
        plan.closes_ms - plan.opens_ms <= floors.longest_round_s * 1000,
        PlanWindowError,
        f"the plan stays open for more than {floors.longest_round_s:g} s: close it sooner",
    )
    yield (
        floors.norm_check or not plan.norm_check,
        PlanPromiseError,
        (
            "a norm check shows hubs projections of every update, and nobody has allowed it here: "
            "plan without, or set `norm_check` in its floors"
        ),
    )
    yield (
        plan.codec.kept <= floors.most_values,
        PlanSizeError,
        f"shares of {plan.codec.kept} values, this hub takes {floors.most_values}: keep fewer coordinates",
    )
