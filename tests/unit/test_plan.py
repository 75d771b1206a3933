import contextlib
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_codecs.wire.errors import InvalidPlanError
from shoal_codecs.wire.packing import unpack_plain
from shoal_codecs.wire.plan import (
    MAX_PLAN_BYTES,
    HubOffer,
    TrainingPlan,
    coordinate_seed,
    decode_plan,
    encode_plan,
    plan_hash,
    plan_signing_bytes,
    whole_share_devices,
    whole_share_place,
)
from wire_parts import NOW_MS, codec_plan, plan, private_plan, single_plan

OFFERS = plan().hubs
INFINITE, NOT_A_NUMBER = float("inf"), float("nan")


def test_a_plan_comes_back_as_it_was_signed() -> None:
    assert decode_plan(encode_plan(plan())) == plan()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"format": 1}, "format 1"),
        ({"task": b"short"}, "not 32 bytes"),
        ({"base": b""}, "not 32 bytes"),
        ({"hubs": (OFFERS[0], HubOffer("hub-2", b"", b"\x07" * 32))}, "not 32 bytes"),
        ({"hubs": (OFFERS[0], OFFERS[0])}, "hub stands twice"),
        ({"hubs": OFFERS[:1]}, "does not work with 1 hubs"),
        ({"hubs": ()}, "does not work with 0 hubs"),
        ({"mode": "plain"}, "does not work with 2 hubs"),
        ({"cohort": ("device-01",) * 3}, "device stands twice"),
        ({"n_min": 0}, "n_min 0"),
        ({"quorum": 1}, "quorum 1"),
        ({"quorum": 4}, "quorum 4"),
        ({"n_max": 2}, "n_max 2"),
        ({"round": 0}, "round 0"),
        ({"opens_ms": 0}, "opens at 0"),
        ({"closes_ms": 1}, "closes at 1"),
        ({"patience_ms": -1}, "opens at"),
        ({"codec": codec_plan(kept=0)}, "cannot keep 0"),
        ({"codec": codec_plan(kept=9611)}, "cannot keep 9611"),
        ({"codec": codec_plan(clip_norm=0.0)}, "positive and finite"),
        ({"codec": codec_plan(clip_norm=INFINITE)}, "positive and finite"),
        ({"codec": codec_plan(clip_norm=NOT_A_NUMBER)}, "positive and finite"),
        ({"codec": codec_plan(clamp=0)}, "positive and finite"),
        ({"codec": codec_plan(weight_cap=0)}, "positive and finite"),
        ({"codec": codec_plan(clamp=683)}, "overflow a ring"),
        ({"codec": codec_plan(ring_bits=0)}, "overflow a ring"),
        ({"codec": codec_plan(ring_bits=33)}, "overflow a ring"),
        ({"training": TrainingPlan(0, 0.2, 16)}, "epochs"),
        ({"training": TrainingPlan(5, INFINITE, 16)}, "epochs"),
        ({"training": TrainingPlan(5, NOT_A_NUMBER, 16)}, "epochs"),
        ({"training": TrainingPlan(5, 0.2, 0)}, "epochs"),
        ({"codec": codec_plan(range_factor=0.0)}, "range factor"),
        ({"codec": codec_plan(range_factor=NOT_A_NUMBER)}, "range factor"),
        ({"codec": codec_plan(source=b"short")}, "not 32 bytes"),
        ({"hubs": (OFFERS[0], HubOffer("hub-2", b"k" * 32, b"n" * 32, b"c"))}, "not 32 bytes"),
        ({"privacy": private_plan(noise=-1.0)}, "protects nothing"),
        ({"privacy": private_plan(noise=NOT_A_NUMBER)}, "protects nothing"),
        ({"privacy": private_plan(noise=INFINITE)}, "protects nothing"),
        ({"privacy": private_plan(delta=0.0)}, "protects nothing"),
        ({"privacy": private_plan(corrupt=-1)}, "corrupt"),
        ({"privacy": private_plan(corrupt=2)}, "nobody whose noise counts"),
        ({"privacy": private_plan(clip_bit=-1)}, "coordinates of the ring"),
        ({"privacy": private_plan(metric_levels=-1)}, "coordinates of the ring"),
        ({"privacy": private_plan(mechanism="central")}, "'central' does not work in mode 'hubs'"),
        ({"norm_check": -1.0}, "norm check"),
        ({"norm_check": NOT_A_NUMBER}, "norm check"),
        ({"norm_check": 1.6, "privacy": private_plan()}, "norm check"),
        ({"mode": "single", "hubs": OFFERS[:1]}, "do not belong together"),
        ({"single": single_plan().single}, "do not belong together"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidPlanError, match=fault):
        plan(**changes)
    # What a liar would send: the same fields, never checked where they were made.
    tree = msgspec.to_builtins(plan(), builtin_types=(bytes,))
    tree |= msgspec.to_builtins(changes, builtin_types=(bytes,))
    with pytest.raises(InvalidPlanError, match=fault):
        decode_plan(msgpack.packb(tree))


@pytest.mark.parametrize("place", [(), ("codec",), ("training",)])
def test_a_promise_nobody_knows_is_refused(place: tuple[str, ...]) -> None:
    tree = unpack_plain(encode_plan(plan()))
    table = tree
    for key in place:
        table = table[key]
    table["epsilon"] = 8.0
    with pytest.raises(InvalidPlanError, match="epsilon"):
        decode_plan(msgpack.packb(tree))


def test_a_hub_offer_with_more_than_is_known_is_refused() -> None:
    tree = unpack_plain(encode_plan(plan()))
    tree["hubs"][0].append(b"more")
    with pytest.raises(InvalidPlanError):
        decode_plan(msgpack.packb(tree))


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x80", b"\x90", b"\xc0", b"\x00" * (MAX_PLAN_BYTES + 1)])
def test_what_is_no_plan_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidPlanError):
        decode_plan(data)


@given(st.data())
def test_a_damaged_plan_is_a_plan_or_refused(data: st.DataObject) -> None:
    content = bytearray(encode_plan(plan()))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidPlanError):
        decode_plan(bytes(content))


def test_the_hash_is_over_the_bytes_and_the_signature_over_the_hash() -> None:
    data = encode_plan(plan())
    assert plan_hash(data) != plan_hash(data + b"\x00")
    assert plan_signing_bytes(data).endswith(plan_hash(data))


def test_coordinates_hang_on_every_hubs_nonce_and_on_nothing_the_coordinator_chooses() -> None:
    seed = coordinate_seed(plan())
    for place, offer in enumerate(OFFERS):
        fresh = list(OFFERS)
        fresh[place] = HubOffer(offer.hub, offer.key, b"\x08" * 32)
        assert coordinate_seed(plan(hubs=tuple(fresh))) != seed
    chosen: tuple[dict[str, Any], ...] = (
        {"round": 8},
        {"base": b"\x09" * 32},
        {"task": b"\x09" * 32},
        {"hubs": OFFERS[::-1]},
        {"n_min": 3},
    )
    assert {coordinate_seed(plan(**changes)) for changes in chosen} == {seed}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"threshold": 0}, "cannot open secrets"),
        ({"threshold": 3}, "cannot open secrets"),
        ({"neighbours": 3}, "among 2 others"),
        ({"edges": 0}, "0 of them with masks"),
        ({"edges": 3}, "3 of them with masks"),
        ({"prekeys": (b"\x31" * 16,) * 3}, "prekey of its own"),
        ({"prekeys": (b"\x31" * 16, b"\x32" * 16)}, "prekey of its own"),
        ({"prekeys": (b"\x31" * 16, b"\x32" * 16, b"short")}, "prekey of its own"),
        ({"shares_ms": NOW_MS}, "follow each other"),
        ({"masked_ms": NOW_MS + 10_000}, "follow each other"),
        ({"masked_ms": NOW_MS + 60_000}, "follow each other"),
    ],
)
def test_a_plan_whose_part_for_mode_single_does_not_hold_is_refused(
    changes: dict[str, Any], fault: str
) -> None:
    with pytest.raises(InvalidPlanError, match=fault):
        single_plan(**changes)


def test_the_new_parts_of_a_plan_come_back_as_they_were_signed() -> None:
    for made in (single_plan(), plan(privacy=private_plan(clip_bit=9)), plan(norm_check=1.6)):
        assert decode_plan(encode_plan(made)) == made


@pytest.mark.parametrize("hubs", [2, 3])
def test_every_share_goes_whole_to_one_hub_and_to_each_its_part(hubs: int) -> None:
    names = [f"hub-{number}" for number in range(hubs)]
    made = plan(hubs=tuple(HubOffer(name, bytes(32), bytes(32)) for name in names))
    parts = [whole_share_devices(made, place) for place in range(hubs)]
    found = {device: place for place, part in enumerate(parts) for device in part}
    assert found == {device: whole_share_place(made, device) for device in made.cohort}
    assert sum(map(len, parts)) == len(made.cohort)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
