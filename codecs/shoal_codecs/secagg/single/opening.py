"""From the answers of survivors to the secrets that open the masks: each checked against what is public.

A share is worth nothing by itself, so that a wrong one is found only by the secret it leads to: then other
shares are tried while there are some. Needs numpy.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from shoal_codecs.secagg.single.errors import MasksClosedError
from shoal_codecs.secagg.single.opening_records import Answer, Secrets
from shoal_codecs.secagg.single.shamir import join_secret
from shoal_codecs.security.sealing import public_sealing_key
from shoal_codecs.wire.plan import Plan
from shoal_codecs.wire.single import Prekey, seed_commitment

MOST_TRIES = 1024


def reconstruct(
    plan: Plan,
    plan_hash: bytes,
    prekeys: Sequence[Prekey],
    *,
    alive: Iterable[str],
    dead: Iterable[str],
    holders: Mapping[str, Sequence[str]],
    commitments: Mapping[str, bytes],
    answers: Mapping[str, Answer],
) -> Secrets:
    """Return every secret that opens the sum over ``alive``.

    ``holders`` are each member's neighbours in drawn order, ``commitments`` to their seeds as published.

    Raises:
        MasksClosedError: one of them cannot be had from these answers.
    """
    keys = dict(zip(plan.cohort, prekeys, strict=True))
    threshold = plan.single.threshold if plan.single else 0

    def joined(device: str, holds: Callable[[bytes], bool]) -> bytes:
        shares = {
            place: answers[holder].shares[device]
            for place, holder in enumerate(holders[device], start=1)
            if holder in answers and device in answers[holder].shares
        }
        for chosen in _choices(tuple(shares), threshold):
            secret = join_secret({place: shares[place] for place in chosen}, len(holders[device]), threshold)
            if holds(secret):
                return secret
        raise MasksClosedError(
            f"{len(shares)} shares of a secret of {device!r} came and {threshold} true ones are needed: the "
            "sum stays hidden, and the next round begins with fresh keys"
        )

    seeds = {}
    for device in alive:

        def is_seed(seed: bytes, device: str = device) -> bool:
            return seed_commitment(plan_hash, device, seed) == commitments[device]

        own = answers[device].own if device in answers else b""
        seeds[device] = own if is_seed(own) else joined(device, is_seed)
    privates = {
        device: joined(
            device,
            lambda key, device=device: public_sealing_key(key) == keys[device].mask_key,  # type: ignore[misc]
        )
        for device in dead
    }
    return Secrets(seeds, privates)


def mask_edges_of(
    holders: Mapping[str, Sequence[str]], edges: int, alive: Iterable[str], dead: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """Return, for each of the ``dead``, those ``alive`` that share a mask with it, whichever drew the other.

    ``holders`` are each member's neighbours in drawn order, of whom the first ``edges`` share masks.
    """
    here, near = frozenset(alive), {device: frozenset(drawn[:edges]) for device, drawn in holders.items()}
    return {
        device: tuple(sorted(peer for peer in here if peer in near[device] or device in near[peer]))
        for device in dead
    }


def _choices(places: tuple[int, ...], threshold: int) -> Iterator[tuple[int, ...]]:
    """Yield choices of ``threshold`` places, always in the same order; one where there is no other."""
    if len(places) < threshold:
        return
    yield places[:threshold]
    for turn in range(MOST_TRIES if len(places) > threshold else 0):

        def order(place: int, turn: int = turn) -> bytes:
            return hashlib.sha256(f"{turn} {place}".encode()).digest()

        yield tuple(sorted(places, key=order)[:threshold])
