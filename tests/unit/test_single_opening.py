"""Secrets put together from shares, some of which are wrong."""

import random

import pytest

from shoal_codecs.secagg.single.errors import MasksClosedError
from shoal_codecs.secagg.single.opening import mask_edges_of, reconstruct
from shoal_codecs.secagg.single.opening_records import Answer, Secrets
from shoal_codecs.secagg.single.parameters import Neighbourhood
from shoal_codecs.secagg.single.shamir import split_secret
from shoal_codecs.wire.errors import MalformedMessageError
from shoal_codecs.wire.single import MaskOpening, decode_opening, encode_opening, seed_commitment
from single_bench import make_cohort, names

COHORT = make_cohort(30, n_min=25, found=Neighbourhood(20, 12), edges=15)
SILENT, DEAD = names(30)[:2]


def answers(*wrong: str) -> tuple[dict[str, Answer], dict[str, bytes]]:
    """Return the answers of all but a silent and a dead device, and the commitments to all seeds."""
    chance = random.Random(7)
    seeds = {name: chance.randbytes(32) for name in names(30)}
    shares: dict[str, dict[str, bytes]] = {name: {} for name in names(30)}
    secrets = {SILENT: seeds[SILENT], DEAD: COHORT.bundles[DEAD].mask_private}
    for owner, secret in secrets.items():
        split = split_secret(secret, 20, 12, chance.randbytes)
        for holder, share in zip(COHORT.neighbours(owner), split, strict=True):
            shares[holder][owner] = bytes(32) if holder in wrong else share
    given = {
        name: Answer(b"wrong" if name in wrong else seeds[name], shares[name])
        for name in names(30)
        if name not in {SILENT, DEAD, *wrong}
    } | {name: Answer(seeds[name], shares[name]) for name in wrong}
    return given, {name: seed_commitment(COHORT.plan_hash, name, seed) for name, seed in seeds.items()}


def opened(given: dict[str, Answer], commitments: dict[str, bytes]) -> Secrets:
    return reconstruct(
        COHORT.plan,
        COHORT.plan_hash,
        COHORT.prekeys,
        alive=[name for name in names(30) if name != DEAD],
        dead=[DEAD],
        holders={name: COHORT.neighbours(name) for name in names(30)},
        commitments=commitments,
        answers=given,
    )


def test_a_silent_survivor_s_seed_and_a_dead_one_s_key_come_from_the_others() -> None:
    found = opened(*answers())
    assert found.mask_privates == {DEAD: COHORT.bundles[DEAD].mask_private}
    assert len(found.seeds) == 29


def test_a_few_wrong_shares_are_found_and_left_out() -> None:
    for owner in (SILENT, DEAD):
        wrong = [one for one in COHORT.neighbours(owner) if one not in {SILENT, DEAD}][:3]
        assert opened(*answers(*wrong)) == opened(*answers())


def test_too_few_true_shares_open_nothing() -> None:
    wrong = [one for one in COHORT.neighbours(DEAD) if one != SILENT][:12]
    with pytest.raises(MasksClosedError, match="stays hidden"):
        opened(*answers(*wrong))
    given, commitments = answers()
    for holder in COHORT.neighbours(SILENT)[:9]:
        given.pop(holder, None)
    with pytest.raises(MasksClosedError, match="12 true ones"):
        opened(given, commitments)


def test_a_seed_that_was_not_committed_to_is_not_believed() -> None:
    given, commitments = answers()
    liar = names(30)[5]
    given[liar] = Answer(bytes(32), given[liar].shares)
    with pytest.raises(MasksClosedError, match=liar):
        opened(given, commitments)


def test_masks_are_shared_whichever_end_drew_the_other() -> None:
    holders = {"a": ("b", "c"), "b": ("c", "a"), "c": ("d", "b"), "d": ("a", "c")}
    assert mask_edges_of(holders, 1, ["a", "b", "c"], ["d"]) == {"d": ("a", "c")}
    assert mask_edges_of(holders, 1, ["a", "d"], ["b", "c"]) == {"b": ("a",), "c": ("d",)}


def test_an_opening_comes_back_and_a_crooked_one_is_refused() -> None:
    cohort = names(9)
    sealed = encode_opening(MaskOpening(b"\x01" * 32, b"\x05\x00", b"\x02" * 32 + b"\x03" * 32))
    assert decode_opening(sealed, cohort) == (
        b"\x01" * 32,
        {"device-001": b"\x02" * 32, "device-003": b"\x03" * 32},
    )
    for crooked in (
        b"noise",
        encode_opening(MaskOpening(b"", b"\x05\x00", bytes(64))),
        encode_opening(MaskOpening(bytes(32), b"\x05\x00", bytes(63))),
        encode_opening(MaskOpening(bytes(32), b"\x05", bytes(64))),
    ):
        with pytest.raises(MalformedMessageError):
            decode_opening(crooked, cohort)
