"""The norm check at a hub: challenges shown and checked, shares projected, projections sealed to peers."""

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog

from shoal_codecs.secagg.errors import ProjectionError
from shoal_codecs.secagg.hub_messages import (
    ComputeProjections,
    JudgeNorms,
    NormsJudged,
    PeerChallenge,
    PeerProjections,
    Projected,
    PublishChallenge,
    PublishProjections,
)
from shoal_codecs.secagg.norm_bound import (
    PROJECTIONS,
    norm_bound,
    projection_context,
    projection_seed,
)
from shoal_codecs.secagg.report_opening import open_share
from shoal_codecs.security.sealing import OVERHEAD_BYTES, seal, unseal
from shoal_codecs.wire.hubs import challenge_digest
from shoal_codecs.wire.messages import HubChallenge, HubProjections
from shoal_codecs.wire.plan import HubOffer
from shoal_coordinator.hub.live import LiveRound, PeerPieces

log = structlog.get_logger()
PIECE_BYTES = 256 * 1024


def challenge_words(live: LiveRound, action: PublishChallenge, challenge: bytes) -> dict[str, Any]:
    """Return the fields of the message that shows this hub's challenge."""
    return {**_head(live), "set_digest": action.digest, "challenge": challenge}


def projection_words(live: LiveRound, action: PublishProjections) -> list[dict[str, Any]]:
    """Return the fields of the messages that carry this hub's projections, sealed to each peer."""
    words = []
    for peer in live.plan.hubs:
        if peer.hub == live.receiver.hub:
            continue
        context = projection_context(live.plan_hash, action.digest, live.receiver.hub, peer.hub)
        sealed = seal(peer.key, action.data, context)
        count = -(-len(sealed) // PIECE_BYTES)
        words += [
            {
                **_head(live),
                "set_digest": action.digest,
                "to": peer.hub,
                "index": index,
                "count": count,
                "data": sealed[index * PIECE_BYTES : (index + 1) * PIECE_BYTES],
            }
            for index in range(count)
        ]
    return words


def hear_challenge(live: LiveRound, message: HubChallenge) -> PeerChallenge:
    """Return the event of a peer's challenge.

    Raises:
        ProjectionError: it is not the one whose digest stands in the plan.
    """
    if challenge_digest(message.challenge) != _offer(live, message.sender).challenge:
        raise ProjectionError(
            f"{message.sender} shows another challenge than the plan names: look at that hub's folder"
        )
    return PeerChallenge(message.sender, message.set_digest, message.challenge)


def hear_projections(live: LiveRound, message: HubProjections) -> PeerProjections | None:
    """Return the event of a peer's projections once all pieces of them are here.

    Raises:
        ProjectionError: a piece that belongs to nothing of the kind.
        UnsealError: sealed for another hub, set or plan.
    """
    if message.to != live.receiver.hub or not live.receiver.private:
        return None
    longest = 4 * PROJECTIONS * len(live.plan.cohort) + OVERHEAD_BYTES
    most = -(-longest // PIECE_BYTES)
    if not 0 <= message.index < message.count <= most or len(message.data) > PIECE_BYTES:
        raise ProjectionError(
            f"piece {message.index} of {message.count} fits no projections of {longest} bytes: update its hub"
        )
    pieces = live.projections.get(message.sender)
    if pieces is None or (pieces.set_digest, pieces.count) != (message.set_digest, message.count):
        # One set of each peer at a time: what it began before is forgotten.
        pieces = live.projections[message.sender] = PeerPieces(message.set_digest, message.count)
    pieces.held[message.index] = message.data
    if len(pieces.held) < message.count:
        return None
    del live.projections[message.sender]
    whole = b"".join(pieces.held[index] for index in range(message.count))
    context = projection_context(live.plan_hash, message.set_digest, message.sender, live.receiver.hub)
    return PeerProjections(message.sender, unseal(live.receiver.private, whole, context))


async def projected(
    live: LiveRound, action: ComputeProjections, own: bytes, held: list[tuple[str, bytes]]
) -> Projected:
    """Return the projections of the ``held`` ciphertexts' shares; ``own`` is this hub's challenge."""
    secrets = {**action.secrets, live.receiver.hub: own}
    seed = projection_seed(live.plan_hash, action.digest, secrets)
    return Projected(await asyncio.to_thread(_project, live, seed, held))


async def judged(live: LiveRound, action: JudgeNorms) -> NormsJudged:
    """Return the devices whose updates are short enough; the others are named in the log.

    Raises:
        ProjectionError: a peer's projections are of another number of devices.
    """
    kept = await asyncio.to_thread(_judge, live, action.members, action.projections)
    if dropped := sorted(set(action.members) - set(kept)):
        log.warning("norms_too_long", round=live.plan.round, devices=dropped)
    return NormsJudged(kept)


def _project(live: LiveRound, seed: bytes, held: list[tuple[str, bytes]]) -> bytes:
    # numpy is imported when the first check needs it.
    from shoal_codecs.secagg.projections import (  # noqa: PLC0415 - see above
        pack_projections,
        project,
        projection_matrix,
    )
    from shoal_coordinator.hub.sums import share_words  # noqa: PLC0415 - see above

    kept, bits = live.plan.codec.kept, live.plan.codec.ring_bits
    matrix = projection_matrix(seed, kept)
    rows = []
    for device, data in held:
        share = open_share(data, device, live.receiver)
        words = share_words(live.plan, live.plan_hash, live.receiver.position, device, share)
        rows.append(project(words[:kept], matrix, bits))
    return pack_projections(rows)


def _judge(live: LiveRound, members: tuple[str, ...], parts: Mapping[str, bytes]) -> tuple[str, ...]:
    from shoal_codecs.secagg.projections import short_enough  # noqa: PLC0415 - see above

    codec = live.plan.codec
    limit = live.plan.norm_check * norm_bound(codec)
    fits = short_enough(tuple(parts.values()), len(members), codec.ring_bits, limit)
    return tuple(device for device, fit in zip(members, fits, strict=True) if fit)


def _offer(live: LiveRound, hub: str) -> HubOffer:
    return next(one for one in live.plan.hubs if one.hub == hub)


def _head(live: LiveRound) -> dict[str, Any]:
    return {"round": live.plan.round, "plan_hash": live.plan_hash}
