"""What hubs, the broker and a coordinator learn or can bring about: attacks of the threat model, in numbers.

The attacks that need processes and folders are in ``tests/integration/test_hub_attacks.py`` and
``test_hub_endings.py``; a device's refusals are in ``test_plan_check.py``.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_parts import Fleet, codec_plan, make_fleet, make_plan
from shoal_codecs.errors import ShoalError
from shoal_codecs.secagg.additive import split
from shoal_codecs.secagg.errors import ShareLengthError
from shoal_codecs.secagg.hub_errors import (
    BaseAnsweredError,
    DrawLimitError,
    PromiseSetError,
    PromiseSignatureError,
    RevealRefusedError,
    StalePromiseError,
)
from shoal_codecs.secagg.hub_floors import HubFloors
from shoal_codecs.secagg.hub_messages import PublishAgreement, PublishSet, ReportStored, State, Tick
from shoal_codecs.secagg.hub_reveal import Wasted, check_reveal
from shoal_codecs.secagg.hub_round import HubRound, terms_of
from shoal_codecs.secagg.prg import expand
from shoal_codecs.secagg.report_opening import Receiver, open_report
from shoal_codecs.secagg.share_seed import new_share_seed
from shoal_codecs.security.errors import BadSignatureError, UnsealError
from shoal_codecs.security.post import Post
from shoal_codecs.security.sealing import new_sealing_key, seal
from shoal_codecs.updates.keystream import Words
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.updates.ring import encode_ring, pack_ring
from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.errors import MalformedMessageError
from shoal_codecs.wire.hubs import HubPromise, promise_commitment, promise_signing_bytes
from shoal_codecs.wire.messages import PROTOCOL_VERSION, Receipt, RevealWanted
from shoal_codecs.wire.plan import HubOffer, Plan, encode_plan, plan_hash
from shoal_codecs.wire.report import (
    SHARE_SEED_BYTES,
    Report,
    decode_report,
    encode_report,
    report_id,
    report_signing_bytes,
    share_context,
)

BITS = 16
DEVICE = "device-01"
# A chi-square with 255 degrees of freedom is beyond this once in 2 million.
CHI_SQUARE_255 = 380.0


def chi_square(data: bytes) -> float:
    """Return the statistic of the bytes' counts against uniformity, 255 degrees of freedom."""
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    expected = len(data) / 256
    return float(((counts - expected) ** 2 / expected).sum())


class Round:
    """One device's report in a plan with hubs whose private keys are known to the test."""

    def __init__(self, hubs: int = 2, kept: int = 2000) -> None:
        self.fleet: Fleet = make_fleet(4, hubs)
        self.private: dict[str, bytes] = {}
        offers = []
        for name in self.fleet.roster.names("hub"):
            self.private[name], public = new_sealing_key()
            offers.append(HubOffer(name, public, os.urandom(32)))
        codec = codec_plan(4, kept=kept, ring_bits=BITS)
        self.plan: Plan = make_plan(self.fleet, bytes(32), hubs=tuple(offers), codec=codec)
        self.data = encode_plan(self.plan)
        self.m = plan_hash(self.data)

    def words(self, seed: int = 0, scale: float = 0.02) -> Words:
        spec = ring_spec(self.plan)
        rng = np.random.default_rng(seed)
        return encode_ring((rng.normal(size=spec.dimension) * scale).astype(np.float32), 40, spec, rng)

    def shares(self, words: Words, seeds: list[bytes] | None = None) -> list[bytes]:
        """Return every hub's share in clear."""
        hubs = len(self.plan.hubs)
        seeds = seeds or [new_share_seed() for _ in range(hubs - 1)]
        return [pack_ring(split(words, BITS, hubs, seeds, self.m, DEVICE), BITS), *seeds]

    def reports(self, shares: list[bytes], **changes: Any) -> dict[str, bytes]:
        """Return every hub's encoded report, made as a device makes it but for ``changes``."""
        m, device = changes.get("m", self.m), changes.get("device", DEVICE)
        keys = changes.get("keys") or [offer.key for offer in self.plan.hubs]
        sealed = [
            seal(key, share, share_context(m, device, offer.hub))
            for key, share, offer in zip(keys, shares, self.plan.hubs, strict=True)
        ]
        return self.bound(sealed, m, device)

    def bound(self, sealed: list[bytes], m: bytes, device: str) -> dict[str, bytes]:
        digests = tuple(digest_of(one) for one in sealed)
        signature = self.fleet.identities[DEVICE].sign(report_signing_bytes(m, device, digests))
        return {
            offer.hub: encode_report(Report(memoryview(one), (*digests[:n], *digests[n + 1 :]), signature))
            for n, (offer, one) in enumerate(zip(self.plan.hubs, sealed, strict=True))
        }

    def receiver(self, hub: str) -> Receiver:
        names = [offer.hub for offer in self.plan.hubs]
        return Receiver(self.m, hub, names.index(hub), len(names), self.private[hub])

    def open(self, hub: str, data: bytes, share_bytes: int | None = None) -> bytes:
        key = self.fleet.identities[DEVICE].public
        return open_report(data, DEVICE, key, self.receiver(hub), share_bytes).share


# --- what is seen -----------------------------------------------------------------------------------


@pytest.mark.parametrize("hubs", [2, 3])
@pytest.mark.parametrize("scale", [0.0, 0.02, 100.0])
def test_each_hubs_view_of_any_update_is_uniform(hubs: int, scale: float) -> None:
    one = Round(hubs)
    views: list[bytes] = [b""] * hubs
    for seed in range(60):
        for place, share in enumerate(one.shares(one.words(seed, scale))):
            views[place] += share
    assert chi_square(views[0]) < CHI_SQUARE_255
    # Seeds are drawn, never derived: there are fewer bytes of them, and no two alike.
    for seeds in views[1:]:
        size = SHARE_SEED_BYTES
        assert len({seeds[start : start + size] for start in range(0, len(seeds), size)}) == 60


def test_the_update_itself_is_not_uniform_so_the_test_above_can_fail() -> None:
    one = Round()
    clear = b"".join(pack_ring(one.words(seed), BITS) for seed in range(60))
    assert chi_square(clear) > 10 * CHI_SQUARE_255


def test_all_but_one_of_the_shares_are_uniform_whichever_they_are() -> None:
    """Hubs 2 and 3 of three together, and hub 1 with hub 2, see noise; only all three do not."""
    one = Round(3)
    partial: dict[str, bytes] = {"1+2": b"", "2+3": b"", "1+3": b"", "1+2+3": b""}
    for seed in range(40):
        words = one.words(seed)
        seeds = [new_share_seed() for _ in range(2)]
        first = split(words, BITS, 3, seeds, one.m, DEVICE)
        second, third = (expand(s, one.m, DEVICE, at, words.size, BITS) for at, s in enumerate(seeds, 2))
        partial["1+2"] += (first + second).tobytes()
        partial["2+3"] += (second + third).tobytes()
        partial["1+3"] += (first + third).tobytes()
        whole = first + second + third
        partial["1+2+3"] += whole.tobytes()
        np.testing.assert_array_equal(whole, words)
    assert all(chi_square(partial[pair]) < CHI_SQUARE_255 for pair in ("1+2", "2+3", "1+3"))
    assert chi_square(partial["1+2+3"]) > 10 * CHI_SQUARE_255


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), shift=st.integers(1, 2**BITS - 1))
def test_two_inputs_with_one_sum_give_each_hub_the_same_view(seed: int, shift: int) -> None:
    """Whatever hub 1 sees of x1 and x2, it could have seen of x1 + d and x2 - d: some seeds explain it."""
    one, rng = Round(), np.random.default_rng(seed)
    count = ring_spec(one.plan).words
    mask = np.uint32((1 << BITS) - 1)
    masks = [rng.integers(0, 1 << BITS, count).astype(np.uint32) for _ in range(2)]
    inputs = [rng.integers(0, 1 << BITS, count).astype(np.uint32) for _ in range(2)]
    view = [(x - r) & mask for x, r in zip(inputs, masks, strict=True)]
    moved = [(inputs[0] + np.uint32(shift)) & mask, (inputs[1] - np.uint32(shift)) & mask]
    explained = [(x - v) & mask for x, v in zip(moved, view, strict=True)]
    # As many masks explain either, and hub 2's sum, which is all it releases, is the same.
    assert ((sum(explained) & mask) == (sum(masks) & mask)).all()
    assert (sum(moved) & mask == sum(inputs) & mask).all()


def test_views_of_two_inputs_with_one_sum_cannot_be_told_apart_by_their_bytes() -> None:
    one = Round()
    count = ring_spec(one.plan).words
    low, high = np.zeros(count, np.uint16), np.full(count, 50_000, np.uint16)
    views = {
        order: b"".join(one.shares(words)[0] for _ in range(60) for words in pair)
        for order, pair in {"low first": (low, high), "high first": (high, low)}.items()
    }
    for view in views.values():
        assert chi_square(view) < CHI_SQUARE_255
    halves = [views["low first"], views["high first"]]
    counts = np.array([np.bincount(np.frombuffer(half, np.uint8), minlength=256) for half in halves])
    expected = counts.sum(axis=0) / 2
    assert float(((counts - expected) ** 2 / expected).sum()) < CHI_SQUARE_255


def test_all_bytes_of_the_broker_and_every_key_of_hub_2_look_uniform() -> None:
    """Share 1 is sealed too: otherwise its words and hub 2's seed would add up to the update."""
    one, crossed, opened = Round(), b"", b""
    for seed in range(60):
        reports = one.reports(one.shares(one.words(seed)))
        for hub, data in reports.items():
            crossed += open_only(data)
            if hub == "hub-2":
                opened += one.open(hub, data)[1:]
    assert chi_square(crossed) < CHI_SQUARE_255
    assert chi_square(opened) < CHI_SQUARE_255
    receiver = Receiver(one.m, "hub-1", 0, 2, one.private["hub-2"])
    with pytest.raises(UnsealError):
        open_report(reports["hub-1"], DEVICE, one.fleet.identities[DEVICE].public, receiver)


def open_only(data: bytes) -> bytes:
    """Return the ciphertext in an encoded report, as whoever reads the broker has it."""
    return bytes(decode_report(data, 2).ciphertext)


def test_a_dictionary_of_updates_says_nothing_about_report_ids() -> None:
    """Hub 2 knows the seed and guesses x among a few: over clear shares the id would give x away."""
    one = Round(kept=8)
    dictionary = [one.words(seed) for seed in range(16)]
    secret = 11
    seeds = [new_share_seed()]
    sealed = [
        seal(offer.key, share, share_context(one.m, DEVICE, offer.hub))
        for offer, share in zip(one.plan.hubs, one.shares(dictionary[secret], seeds), strict=True)
    ]
    name = report_id(one.m, DEVICE, tuple(digest_of(part) for part in sealed))
    guesses = []
    for words in dictionary:
        shares = one.shares(words, seeds)
        over_clear = report_id(one.m, DEVICE, tuple(digest_of(share) for share in shares))
        resealed = seal(one.plan.hubs[0].key, shares[0], share_context(one.m, DEVICE, "hub-1"))
        over_sealed = report_id(one.m, DEVICE, (digest_of(resealed), digest_of(sealed[1])))
        guesses.append((over_clear, over_sealed))
    assert all(name not in pair for pair in guesses)
    # The attack itself works: against ids over clear shares it finds the update.
    weak = report_id(one.m, DEVICE, tuple(digest_of(s) for s in one.shares(dictionary[secret], seeds)))
    assert [pair[0] for pair in guesses].index(weak) == secret


# --- what is refused --------------------------------------------------------------------------------


def cases() -> dict[str, tuple[Any, type[ShoalError]]]:
    """Return how a report goes wrong, and the error that names it."""

    def other_plan(one: Round, shares: list[bytes]) -> bytes:
        return one.reports(shares, m=hashlib.sha256(b"another plan").digest())["hub-1"]

    def tampered(one: Round, shares: list[bytes]) -> bytes:
        data = bytearray(one.reports(shares)["hub-1"])
        data[40] ^= 1
        return bytes(data)

    def swapped(one: Round, shares: list[bytes]) -> bytes:
        return one.reports(shares)["hub-2"]

    def wrong_key(one: Round, shares: list[bytes]) -> bytes:
        return one.reports(shares, keys=[new_sealing_key()[1], one.plan.hubs[1].key])["hub-1"]

    def sealed_elsewhere(one: Round, shares: list[bytes]) -> bytes:
        """Signed for this plan, sealed in the context of another."""
        sealed = [
            seal(offer.key, share, share_context(bytes(32), DEVICE, offer.hub))
            for offer, share in zip(one.plan.hubs, shares, strict=True)
        ]
        return one.bound(sealed, one.m, DEVICE)["hub-1"]

    def for_another_hub(one: Round, shares: list[bytes]) -> bytes:
        """What was sealed to hub 1 as hub 2's share, in hub 1's place."""
        context = share_context(one.m, DEVICE, "hub-2")
        sealed = [seal(one.plan.hubs[0].key, shares[0], context), b"x" * 80]
        return one.bound(sealed, one.m, DEVICE)["hub-1"]

    def short(one: Round, shares: list[bytes]) -> bytes:
        return one.reports([shares[0][:-1], *shares[1:]])["hub-1"]

    return {
        "wrong M": (other_plan, BadSignatureError),
        "tampered share": (tampered, BadSignatureError),
        "another hub's report": (swapped, BadSignatureError),
        "wrong key": (wrong_key, UnsealError),
        "seal of another plan": (sealed_elsewhere, UnsealError),
        "seal for another hub": (for_another_hub, UnsealError),
        "short share": (short, ShareLengthError),
        "noise": (lambda _one, _shares: os.urandom(500), MalformedMessageError),
    }


@pytest.mark.parametrize("name", cases())
def test_a_report_that_was_meddled_with_is_refused_by_its_name(name: str) -> None:
    one = Round()
    shares = one.shares(one.words())
    make, error = cases()[name]
    with pytest.raises(error):
        one.open("hub-1", make(one, shares), len(shares[0]))
    assert one.open("hub-1", one.reports(shares)["hub-1"], len(shares[0])) == shares[0]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_single_changed_bit_of_a_report_is_believed(data: st.DataObject) -> None:
    one = ROUND
    good = REPORT
    place = data.draw(st.integers(0, 8 * len(good) - 1))
    changed = bytearray(good)
    changed[place // 8] ^= 1 << (place % 8)
    with pytest.raises((BadSignatureError, UnsealError, MalformedMessageError, ShareLengthError)):
        one.open("hub-1", bytes(changed))


ROUND = Round(kept=40)
REPORT = ROUND.reports(ROUND.shares(ROUND.words()))["hub-1"]


def test_a_forged_receipt_empties_no_outbox() -> None:
    """A receipt is believed from the hub it names only, on that device's topic, in this fleet."""
    fleet = make_fleet(4, 2)
    device = Post(fleet.post(DEVICE).topics, fleet.identities[DEVICE], fleet.roster)
    topic = device.topics.receipt(DEVICE, "hub-1")
    fields: dict[str, Any] = {"round": 7, "plan_hash": bytes(32), "report_id": bytes(32)}
    for forger in ("hub-2", "coordinator", "device-02"):
        post = fleet.post(forger)
        message = Receipt(
            protocol=PROTOCOL_VERSION, sender="hub-1", message_id=os.urandom(8), sent_ms=1, **fields
        )
        with pytest.raises(BadSignatureError):
            device.open(topic, post.encode(topic, message))
    honest = fleet.post("hub-1")
    frame = honest.encode(topic, honest.compose(Receipt, **fields))
    with pytest.raises(BadSignatureError):
        device.open(device.topics.receipt("device-02", "hub-1"), frame)
    assert device.open(topic, frame)[1].sender == "hub-1"
    with pytest.raises(ShoalError, match="handled before"):
        device.open(topic, frame)


def test_a_floor_that_was_raised_since_the_plan_was_signed_holds() -> None:
    plan = make_plan(make_fleet(devices=10), bytes(32), n_min=8, quorum=8)
    assert terms_of(plan, "hub-1", HubFloors()).floor == 8
    assert terms_of(plan, "hub-1", HubFloors(n_min=9)).floor == 9
    assert terms_of(plan, "hub-1", HubFloors(cohort_share=1.0)).floor == 10


@settings(max_examples=40, deadline=None)
@given(devices=st.integers(1, 5), at_ms=st.integers(0, 59_999))
def test_nobody_but_its_own_count_and_clock_closes_a_hub(devices: int, at_ms: int) -> None:
    """Fewer reports than the plan's quorum stay open until the deadline, whatever anybody says."""
    fleet = make_fleet(6, 2)
    plan = make_plan(fleet, bytes(32), n_min=5, quorum=6, n_max=6, patience_ms=0, codec=codec_plan(6))
    machine = HubRound(terms_of(plan, "hub-1", HubFloors()))
    said: list[Any] = []
    for place in range(devices):
        event = ReportStored(f"device-{place + 1:02}", bytes([place]) * 32, plan.opens_ms)
        said += machine.handle(event)
    said += machine.handle(Tick(plan.opens_ms + at_ms))
    assert machine.state is State.SIGNED
    assert not any(isinstance(one, PublishSet | PublishAgreement) for one in said)


# --- nonces -----------------------------------------------------------------------------------------


class Promises:
    """Every hub's promise, signed."""

    def __init__(self, hubs: int) -> None:
        self.fleet = make_fleet(4, hubs)
        self.names = self.fleet.roster.names("hub")
        self.all = tuple(self.signed(hub, os.urandom(32), os.urandom(32)) for hub in self.names)

    def signed(self, hub: str, key: bytes, nonce: bytes, by: str = "") -> HubPromise:
        commitment = promise_commitment(hub, key, nonce, bytes(32))
        signed = promise_signing_bytes(self.fleet.roster.fleet, hub, key, commitment)
        return HubPromise(hub, key, commitment, self.fleet.identities[by or hub].sign(signed))

    def check(self, promises: tuple[HubPromise, ...], own: HubPromise, **changes: Any) -> None:
        wanted = RevealWanted(
            protocol=1,
            sender="coordinator",
            message_id=bytes(8),
            sent_ms=0,
            task=b"t" * 32,
            base=b"b" * 32,
            promises=promises,
        )
        fields: dict[str, Any] = {"answered": set(), "wasted": Wasted(), "now_ms": 1_000_000}
        floors = HubFloors(free_draws=3, draw_pause_s=60)
        check_reveal(wanted, own=own, roster=self.fleet.roster, floors=floors, **(fields | changes))


@pytest.mark.parametrize("hubs", [2, 3, 5])
def test_any_order_of_all_hubs_promises_opens_the_nonce_and_no_other_set_does(hubs: int) -> None:
    one = Promises(hubs)
    own = one.all[0]
    for order in itertools.islice(itertools.permutations(one.all), 6):
        one.check(order, own)
    strange = one.signed(one.names[1], os.urandom(32), os.urandom(32), by=one.names[0])
    other_own = one.signed(one.names[0], os.urandom(32), os.urandom(32))
    attempts: dict[type[ShoalError], tuple[HubPromise, ...]] = {
        PromiseSetError: one.all[:-1],
        PromiseSignatureError: (own, strange, *one.all[2:]),
        StalePromiseError: (other_own, *one.all[1:]),
    }
    for error, promises in attempts.items():
        with pytest.raises(error):
            one.check(promises, own)
    with pytest.raises(PromiseSetError):
        one.check((*one.all, one.all[1]), own)
    with pytest.raises(BaseAnsweredError):
        one.check(one.all, own, answered={(b"t" * 32, b"b" * 32)})


@given(draws=st.integers(0, 20), since_s=st.integers(0, 200))
def test_draws_are_few_and_then_seldom(draws: int, since_s: int) -> None:
    now_ms = 1_000_000
    wasted = Wasted(draws, now_ms - 1000 * since_s)
    if draws < 3 or since_s >= 60:
        TWO.check(TWO.all, TWO.all[0], wasted=wasted, now_ms=now_ms)
        return
    with pytest.raises(DrawLimitError, match="see why rounds fail") as caught:
        TWO.check(TWO.all, TWO.all[0], wasted=wasted, now_ms=now_ms)
    assert isinstance(caught.value, RevealRefusedError)


TWO = Promises(2)


def test_a_commitment_binds_key_nonce_challenge_and_hub() -> None:
    parts = ("hub-1", b"k" * 32, b"n" * 32, b"c" * 32)
    whole = promise_commitment(*parts)
    for place, other in enumerate(("hub-2", b"x" * 32, b"x" * 32, b"x" * 32)):
        changed = list(parts)
        changed[place] = other
        assert promise_commitment(*changed) != whole  # type: ignore[arg-type]
