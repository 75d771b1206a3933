"""What a device computes for its neighbours: shares of its secrets in boxes; the boxes it gets, opened.

Needs numpy and cryptography: on a device, the worker runs it.
"""

from collections.abc import Callable, Mapping, Sequence

from shoal_codecs.secagg.single.boxes import agreed_secret, open_box, seal_box
from shoal_codecs.secagg.single.bundles import OwnBundle
from shoal_codecs.secagg.single.errors import BadKeyError, BoxError, DeliveryError
from shoal_codecs.secagg.single.neighbours import drawn_by
from shoal_codecs.secagg.single.shamir import split_secret
from shoal_codecs.secagg.single.sharing_records import MadeShares, Neighbourly
from shoal_codecs.wire.plan import Plan, SinglePlan
from shoal_codecs.wire.single import SHARE_BYTES, Prekey, names_in, seed_commitment

SEED_BYTES = 32


def make_shares(
    own: OwnBundle,
    device: str,
    plan: Plan,
    plan_hash: bytes,
    prekeys: Sequence[Prekey],
    random: Callable[[int], bytes],
) -> MadeShares:
    """Return the shares of ``device`` for its neighbours; ``prekeys`` are the checked ones of the plan.

    Raises:
        SingleError: keys or numbers of the plan that cannot be used.
    """
    single, keys = _single(plan), dict(zip(plan.cohort, prekeys, strict=True))
    neighbours = drawn_by(device, own.nonce, own.prekey, plan, plan_hash)
    seed = random(SEED_BYTES)
    holders = len(neighbours)
    seeds = split_secret(seed, holders, single.threshold, random)
    masks = split_secret(own.mask_private, holders, single.threshold, random)
    boxes = tuple(
        seal_box(
            agreed_secret(own.seal_private, keys[neighbour].seal_key),
            plan_hash,
            device,
            neighbour,
            seeds[place] + masks[place],
        )
        for place, neighbour in enumerate(neighbours)
    )
    return MadeShares(seed, seed_commitment(plan_hash, device, seed), boxes)


def open_delivery(
    own: OwnBundle,
    device: str,
    plan: Plan,
    plan_hash: bytes,
    prekeys: Sequence[Prekey],
    members: bytes,
    draws: Mapping[str, bytes],
    boxes: Mapping[str, bytes],
) -> Neighbourly:
    """Return what the coordinator's delivery to ``device`` gives it; ``members`` is a bitmap.

    A box that does not open is noted, and no reason to stop: its sender alone has one holder less, while a
    device that stopped would let any one device end every round.

    Raises:
        DeliveryError: a word from outside the members, or no box from a member that drew this device.
        DrawError: a nonce that its device did not commit to.
    """
    single, keys = _single(plan), dict(zip(plan.cohort, prekeys, strict=True))
    present = set(names_in(members, plan.cohort)) - {device}
    if not boxes.keys() == draws.keys() <= present:
        raise DeliveryError("boxes and nonces must come together, and from members: deliver them again")
    peers = set(drawn_by(device, own.nonce, own.prekey, plan, plan_hash)[: single.edges])
    peers &= present
    held, unopened = {}, []
    for sender, box in boxes.items():
        drawn = drawn_by(sender, draws[sender], keys[sender], plan, plan_hash)
        if device not in drawn:
            raise DeliveryError(f"{sender!r} did not draw this device: deliver boxes to whom they are for")
        if device in drawn[: single.edges]:
            peers.add(sender)
        try:
            secret = agreed_secret(own.seal_private, keys[sender].seal_key)
            content = open_box(secret, plan_hash, sender, device, box)
        except (BoxError, BadKeyError):
            content = b""
        if len(content) == 2 * SHARE_BYTES:
            held[sender] = content
        else:
            unopened.append(sender)
    return Neighbourly(tuple(sorted(peers)), held, tuple(unopened))


def _single(plan: Plan) -> SinglePlan:
    if plan.single is None:
        raise DeliveryError("shares belong to mode 'single': look at the plan")
    return plan.single
