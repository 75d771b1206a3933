"""What the coordinator kept of a round of mode ``single``, checked before a machine goes on from it."""

from shoal_codecs.secagg.single.errors import DrawError, LostWordsError
from shoal_codecs.secagg.single.neighbours import drawn_by
from shoal_codecs.secagg.single.opening_records import Answer
from shoal_codecs.secagg.single.server_messages import PublishedShares, ServerMemory, ServerTerms
from shoal_codecs.wire.errors import MalformedMessageError
from shoal_codecs.wire.single import BOX_BYTES, SHARE_BYTES, names_in


def sound_memory(terms: ServerTerms, memory: ServerMemory) -> ServerMemory:
    """Return ``memory`` without the words that cannot be a device's; those may be said again.

    Raises:
        LostWordsError: what is left does not carry what was decided, which cannot be decided again.
    """
    cohort = terms.plan.cohort
    shares = {device: one for device, one in memory.shares.items() if _is_sound(terms, device, one)}
    try:
        members = frozenset(names_in(memory.members, cohort)) if memory.members else frozenset[str]()
        sides = (memory.split.alive, memory.split.dead) if memory.split else (b"", b"")
        alive, dead = (frozenset(names_in(side, cohort)) if side else frozenset[str]() for side in sides)
    except MalformedMessageError as error:
        raise LostWordsError(f"{_LOST}: a set of devices in it is damaged") from error
    if lost := sorted(members - shares.keys()):
        raise LostWordsError(f"{_LOST}: the shares of {', '.join(lost[:5])} are missing or damaged")
    if memory.asked and memory.split is None:
        raise LostWordsError(f"{_LOST}: who survived is missing, and devices may have opened masks")
    if memory.split is not None and (alive & dead or alive | dead != members):
        raise LostWordsError(f"{_LOST}: those alive and those dead are not the members")
    return ServerMemory(
        shares=shares,
        members=memory.members,
        split=memory.split,
        asked=memory.asked,
        consents={device: one for device, one in memory.consents.items() if device in alive},
        answers={
            device: one for device, one in memory.answers.items() if device in alive and _is_answer(one)
        },
    )


_LOST = "the words of the round cannot be used: restore the coordinator's folder"


def _is_sound(terms: ServerTerms, device: str, shares: PublishedShares) -> bool:
    plan = terms.plan
    if device not in plan.cohort or plan.single is None or len(shares.boxes) != plan.single.neighbours:
        return False
    try:
        drawn_by(device, shares.draw, terms.prekeys[plan.cohort.index(device)], plan, terms.plan_hash)
    except DrawError:
        return False
    return all(len(box) == BOX_BYTES for box in shares.boxes)


def _is_answer(answer: Answer) -> bool:
    return all(len(secret) == SHARE_BYTES for secret in (answer.own, *answer.shares.values()))
