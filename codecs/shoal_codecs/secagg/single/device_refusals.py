"""What a device refuses, each with its own error: pure checks before anything is signed or given."""

from collections.abc import Mapping

from shoal_codecs.secagg.single.device_messages import DeviceTerms, Split
from shoal_codecs.secagg.single.errors import (
    AliveAndDeadError,
    DeclaredDeadError,
    DeliveryError,
    FewConsentsError,
    FewNeighboursError,
    FewSurvivorsError,
    OtherMembersError,
)
from shoal_codecs.security.errors import BadSignatureError
from shoal_codecs.security.identity import verify
from shoal_codecs.wire.single import consent_bytes, names_in


def check_members(terms: DeviceTerms, members: bytes) -> None:
    """Check the members that the coordinator names.

    Raises:
        DeliveryError: fewer than the plan's floor, or without this device.
        MalformedMessageError: no set of the cohort.
    """
    names = names_in(members, terms.plan.cohort)
    if len(names) < terms.plan.n_min:
        raise DeliveryError(
            f"{len(names)} members are fewer than the {terms.plan.n_min} the plan promises: end the round"
        )
    if terms.device not in names:
        raise DeliveryError("this device shared and is not among the members: it takes no further part")


def check_split(terms: DeviceTerms, split: Split, members: bytes) -> None:
    """Check a split of ``members`` (a bitmap) into alive and dead.

    Raises:
        SurvivorError: what is wrong with it, each by its own name.
        MalformedMessageError: sets that are none of the cohort's.
    """
    plan = terms.plan
    alive, dead = (frozenset(names_in(bitmap, plan.cohort)) for bitmap in (split.alive, split.dead))
    both = sorted(alive & dead)
    if both:
        raise AliveAndDeadError(
            f"{both[0]!r} is said to be alive and dead: with both its secrets its update is readable; refused"
        )
    if alive | dead != frozenset(names_in(members, plan.cohort)):
        raise OtherMembersError("alive and dead together are not the members that were named: refused")
    if terms.device in dead:
        raise DeclaredDeadError("this device is called dead: its vector came too late and stays masked")
    if len(alive) < plan.n_min:
        raise FewSurvivorsError(
            f"{len(alive)} are alive and the plan promises {plan.n_min}: the sum would hide too little"
        )
    near = len(alive.intersection(terms.neighbours))
    if plan.single is not None and near < plan.single.threshold:
        raise FewNeighboursError(
            f"{near} neighbours of this device are alive and {plan.single.threshold} must be: end the round"
        )


def check_consents(terms: DeviceTerms, split: Split, signatures: Mapping[str, bytes]) -> None:
    """Check that enough neighbours signed this very split.

    Raises:
        FewConsentsError: they did not.
    """
    signed = consent_bytes(terms.plan_hash, split.alive, split.dead)
    alive = frozenset(names_in(split.alive, terms.plan.cohort))
    threshold = terms.plan.single.threshold if terms.plan.single else 0
    count = 0
    for neighbour in terms.neighbours:
        if count == threshold:
            break
        if neighbour not in signatures or neighbour not in alive:
            continue
        try:
            verify(terms.keys[neighbour], signed, signatures[neighbour])
        except BadSignatureError:
            continue
        count += 1
    if count < threshold:
        raise FewConsentsError(
            f"{count} neighbours signed these sets and {threshold} must: others may have seen others"
        )
