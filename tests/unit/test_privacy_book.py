"""The coordinator's copy of the devices' ledgers: never below what was sent, in whatever order words come."""

import asyncio
import math
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_codecs.privacy.charge import Charge
from shoal_codecs.privacy.errors import BudgetExceededError
from shoal_codecs.wire.heartbeat import Reading
from shoal_codecs.wire.messages import Reply
from shoal_codecs.wire.plan import Plan, encode_plan, plan_hash
from shoal_coordinator.config import PrivacySettings
from shoal_coordinator.planning import PlanSettings, codec_plan
from shoal_coordinator.privacy_book import PrivacyBook
from shoal_coordinator.privacy_desk import PrivacyDesk
from shoal_coordinator.privacy_reference import reference_epsilons
from shoal_coordinator.privacy_terms import PrivacyTerms, make_terms
from shoal_coordinator.registry import DeviceView
from shoal_coordinator.round_errors import NoPrivacyError, UnknownDeviceError
from shoal_coordinator.store import Store
from wire_parts import plan as any_plan

TASK = b"\x01" * 32
DEVICES = ("device-01", "device-02", "device-03")
CODEC = codec_plan(PlanSettings(fleet="field", mode="hubs"), 9610, 3)


def terms_of(mode: str = "hubs", **changes: object) -> PrivacyTerms:
    said = {"mechanism": "auto", "rounds": 5, "allow_small_fleet": True} | changes
    made = make_terms(PrivacySettings(**said), mode, 3, 3)  # type: ignore[arg-type]
    assert made is not None
    return made


TERMS = terms_of()
CHARGE = TERMS.charge(CODEC)


def plan(number: int, terms: PrivacyTerms = TERMS) -> Plan:
    return any_plan(round=number, codec=CODEC, privacy=terms.part(CODEC, 3))


def hash_of(number: int) -> bytes:
    return plan_hash(encode_plan(plan(number)))


def book_on(store: Store, terms: PrivacyTerms | None = TERMS, charge: Charge | None = CHARGE) -> PrivacyBook:
    return PrivacyBook(store, TASK, lambda: 1_700_000_000_000, terms, charge)


def reply(device: str, number: int, **fields: Any) -> Reply:
    return Reply(
        protocol=1,
        sender=device,
        message_id=b"8 bytes.",
        sent_ms=1,
        round=number,
        plan_id=hash_of(number)[:8],
        **fields,
    )


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path)
    yield opened
    await opened.close()


async def test_a_device_pays_once_for_each_plan_it_is_invited_to(store: Store) -> None:
    book = book_on(store)
    for number in (1, 1, 2):
        await book.invited(plan(number), hash_of(number), DEVICES[:2])
    assert book.epsilon("device-01") == CHARGE.times(2).epsilon(TERMS.delta)
    assert book.rounds("device-01") == 2
    assert book.left("device-01") == 3
    assert book.epsilon("device-03") == 0.0
    assert book.largest() == book.epsilon("device-02") == book.task_epsilon()


async def test_what_was_written_is_there_after_a_restart(store: Store) -> None:
    book = book_on(store)
    await book.invited(plan(1), hash_of(1), DEVICES)
    await book.replied("device-02", hash_of(1), accepted=False)
    again = book_on(store)
    await again.load()
    assert [again.rounds(device) for device in DEVICES] == [1, 0, 1]
    assert again.states("device-02") == book.states("device-02")
    # Asked again after the restart: nobody pays twice, and the one that declined stays as it is.
    await again.invited(plan(1), hash_of(1), DEVICES)
    assert [again.rounds(device) for device in DEVICES] == [1, 0, 1]


async def test_only_a_first_word_of_no_lifts_the_charge(store: Store) -> None:
    book = book_on(store)
    await book.invited(plan(1), hash_of(1), DEVICES)
    await book.replied("device-01", hash_of(1), accepted=False)
    await book.replied("device-02", hash_of(1), accepted=True)
    # Withdrawn: its report may have left before.
    await book.replied("device-02", hash_of(1), accepted=False)
    assert [book.rounds(device) for device in DEVICES] == [0, 1, 1]
    await book.took_part(hash_of(1), ("device-01",))
    assert [book.rounds(device) for device in DEVICES] == [1, 1, 1]


async def test_a_word_that_nothing_was_sent_lifts_the_charge_however_late(store: Store) -> None:
    desk = PrivacyDesk(book_on(store), DEVICES, cohort=0, minimum=3)
    await desk.book.invited(plan(1), hash_of(1), DEVICES)
    for device in DEVICES[:2]:
        assert await desk.hear(reply(device, 1, accepted=True))
    # The round is over meanwhile; the word still names its plan.
    assert await desk.hear(reply("device-01", 1, accepted=False, unsent=True))
    assert await desk.hear(reply("device-02", 1, accepted=False))
    assert [desk.book.rounds(device) for device in DEVICES] == [0, 1, 1]
    assert not await desk.hear(reply("device-01", 2, accepted=False, unsent=True))
    # It takes part again after all, and pays.
    assert await desk.hear(reply("device-01", 1, accepted=True))
    assert desk.book.rounds("device-01") == 1


@pytest.mark.parametrize("reason", ["BudgetExceededError: spent", "UnprivateRoundError: no noise"])
async def test_who_declines_for_its_own_budget_is_not_asked_again_until_it_starts_anew(
    store: Store, reason: str
) -> None:
    desk = PrivacyDesk(book_on(store), DEVICES, cohort=0, minimum=3)
    await desk.book.invited(plan(1), hash_of(1), DEVICES)
    await desk.hear(reply("device-03", 1, accepted=False, reason="WorkerError: hot"))
    assert desk.spent() == frozenset()
    await desk.hear(reply("device-03", 1, accepted=False, reason=reason))
    assert desk.spent() == {"device-03"}
    assert desk.rounds_left() == 0
    assert "2 devices can pay" in desk.over()
    _, fields = await desk.show("device-03", ())
    assert fields["devices"][0]["declines"]
    desk.started("device-03")
    assert desk.spent() == frozenset()
    assert desk.rounds_left() == 4


async def test_plans_without_noise_and_words_on_unknown_plans_are_not_charged(store: Store) -> None:
    book = book_on(store)
    await book.invited(any_plan(), b"m" * 32, DEVICES)
    await book.replied("device-01", b"m" * 32, accepted=True)
    assert book.devices == ()
    assert await store.private_plans() == []


WORDS = st.lists(
    st.tuples(
        st.sampled_from(["invite", "accept", "decline", "send", "unsent", "restart"]),
        st.sampled_from(DEVICES),
        st.integers(1, 3),
    ),
    max_size=30,
)


@given(WORDS)
@settings(max_examples=40, deadline=None)
def test_no_order_of_words_charges_less_than_what_was_sent(words: list[tuple[str, str, int]]) -> None:
    """A device sends for a plan only after it accepted it; its word may come late, twice, or never."""

    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = await Store.open(Path(folder))
            book = book_on(store)
            invited: set[tuple[str, int]] = set()
            accepted: set[tuple[str, int]] = set()
            sent: set[tuple[str, int]] = set()
            for word, device, number in words:
                mine = (device, number)
                if word == "invite":
                    await book.invited(plan(number), hash_of(number), [device])
                    invited.add(mine)
                elif word == "accept" and mine in invited:
                    await book.replied(device, hash_of(number), accepted=True)
                    accepted.add(mine)
                elif word == "send" and mine in accepted:
                    sent.add(mine)
                elif word == "decline" and mine in invited:
                    await book.replied(device, hash_of(number), accepted=False)
                elif word == "unsent" and mine in invited - sent:
                    await book.replied(device, hash_of(number), accepted=False, unsent=True)
                    accepted.discard(mine)
                elif word == "restart":
                    book = book_on(store)
                    await book.load()
                for device_name in DEVICES:
                    paid = sum(name == device_name for name, _ in sent)
                    assert book.rounds(device_name) >= paid
                    assert book.epsilon(device_name) >= CHARGE.times(paid).epsilon(TERMS.delta) * (paid > 0)
            await store.close()

    asyncio.run(run())


async def test_exactly_the_rounds_of_the_budget_fit(store: Store) -> None:
    desk = PrivacyDesk(book_on(store), DEVICES, cohort=3, minimum=3)
    for number in range(1, 6):
        assert desk.rounds_left() == 6 - number
        assert desk.over() == ""
        await desk.book.invited(plan(number), hash_of(number), DEVICES)
    assert desk.rounds_left() == 0
    assert desk.spent() == set(DEVICES)
    assert "0 devices can pay for another round and 3 are needed" in desk.over()
    assert desk.book.largest() <= TERMS.epsilon * (1 + 1e-9)


async def test_where_everybody_is_invited_the_rounds_end_with_the_last_of_the_minimum(store: Store) -> None:
    desk = PrivacyDesk(book_on(store), DEVICES, cohort=0, minimum=2)
    assert desk.rounds_left() == 5
    for number in range(1, 4):
        await desk.book.invited(plan(number), hash_of(number), DEVICES[:1])
    assert desk.rounds_left() == 5
    await desk.book.invited(plan(1), hash_of(1), DEVICES)
    assert desk.rounds_left() == 4
    assert PrivacyDesk(book_on(store), DEVICES, cohort=0, minimum=4).rounds_left() == 0


async def test_more_rounds_than_fit_are_refused_with_the_number(store: Store) -> None:
    desk = PrivacyDesk(book_on(store), DEVICES, cohort=3, minimum=3)
    desk.refuse_rounds(5)
    with pytest.raises(BudgetExceededError, match=r"6 rounds more .* 0\.00 is spent and 5 rounds would fit"):
        desk.refuse_rounds(6)
    await desk.book.invited(plan(1), hash_of(1), DEVICES)
    with pytest.raises(BudgetExceededError, match="4 rounds would fit"):
        desk.refuse_rounds(5)
    PrivacyDesk(book_on(store, None, None), DEVICES, cohort=3, minimum=3).refuse_rounds(10**6)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=7), st.integers(1, 7))
def test_the_rounds_that_can_be_filled_are_those_that_greed_fills(left: list[int], cohort: int) -> None:
    book = PrivacyBook(None, TASK, lambda: 0, TERMS, CHARGE)  # type: ignore[arg-type]
    names = [f"device-{n}" for n in range(len(left))]
    book.left = dict(zip(names, left, strict=True)).__getitem__  # type: ignore[assignment,method-assign]
    filled, still = 0, sorted(left, reverse=True)
    while len(still) >= cohort and still[cohort - 1] > 0:
        still = sorted((one - (place < cohort) for place, one in enumerate(still)), reverse=True)
        filled += 1
    assert book.rounds_left(names, cohort) == filled


@pytest.mark.parametrize("rounds", [1, 3, 50])
async def test_epsilon_of_central_noise_is_what_an_independent_accountant_says(
    store: Store, rounds: int
) -> None:
    terms = terms_of("plain", rounds=50)
    codec = codec_plan(PlanSettings(fleet="field", mode="plain", codec="dense"), 9610, 3)
    book = book_on(store, terms, terms.charge(codec))
    spent = None
    for number in range(1, rounds + 1):
        made = any_plan(
            mode="plain", hubs=any_plan().hubs[:1], round=number, codec=codec, privacy=terms.part(codec, 3)
        )
        digest = plan_hash(encode_plan(made))
        await book.invited(made, digest, DEVICES)
        spent = book.committed(digest)
    assert spent is not None
    by_rdp, by_pld = reference_epsilons(book.history("device-01"), terms.delta)
    assert by_rdp is not None
    assert by_pld is not None
    assert spent.epsilon == pytest.approx(by_rdp, abs=1e-3)
    assert spent.task_epsilon == spent.epsilon
    assert by_pld < spent.epsilon <= terms.epsilon * (1 + 1e-9)


async def test_a_version_with_a_round_without_noise_in_it_promises_nothing(store: Store) -> None:
    book = book_on(store)
    await book.invited(plan(1), hash_of(1), DEVICES)
    spent = book.committed(hash_of(1))
    assert spent is not None
    # A skipped version trains nothing.
    assert book.committed(b"") == spent
    assert book.committed(b"plan without noise".ljust(32)) is None
    await book.invited(plan(2), hash_of(2), DEVICES)
    assert book.committed(hash_of(2)) is None


async def test_skellam_has_no_second_opinion(store: Store) -> None:
    book = book_on(store)
    await book.invited(plan(1), hash_of(1), DEVICES)
    assert reference_epsilons(book.history("device-01"), TERMS.delta) == (None, None)
    assert reference_epsilons((), 1e-5) == (0.0, 0.0)
    by_rdp, by_pld = reference_epsilons((("local-laplace", 5.0, 3),), 1e-5)
    assert by_rdp is not None
    assert by_pld is not None
    assert 0 < by_pld <= by_rdp < 1.0


async def test_what_is_shown_of_one_device(store: Store) -> None:
    desk = PrivacyDesk(book_on(store), DEVICES, cohort=3, minimum=3)
    await desk.book.invited(plan(1), hash_of(1), DEVICES[:2])
    await desk.book.replied("device-02", hash_of(1), accepted=False)
    text, fields = await desk.show("", ())
    assert text.endswith("4 rounds left")
    assert [one["name"] for one in fields["devices"]] == ["device-01", "device-02", "device-03"]
    assert fields["covers"] == "updates only"
    _, one = await desk.show("device-02", ())
    assert [(row["round"], row["state"], row["charged"]) for row in one["charges"]] == [
        (1, "declined", False)
    ]
    with pytest.raises(UnknownDeviceError, match="nobody"):
        await desk.show("nobody", ())
    with pytest.raises(NoPrivacyError, match="mechanism"):
        await PrivacyDesk(book_on(store, None, None), DEVICES, 3, 3).show("", ())
    assert math.isfinite(fields["spent"])


def told(name: str, metrics: str, *, trusted: bool = True) -> DeviceView:
    readings: dict[int, Any] = {int(Reading.METRICS): metrics} if metrics else {}
    return DeviceView(name, trusted=trusted, readings=readings)


@pytest.mark.parametrize(
    ("views", "covers"),
    [
        ([told("a", "none"), told("b", "none")], "everything"),
        ([told("a", "none"), told("guest", "", trusted=False)], "everything"),
        ([told("a", "none"), told("b", "verdict")], "updates only"),
        # Who has not been heard may say anything.
        ([told("a", "none"), told("b", "")], "updates only"),
        ([], "updates only"),
    ],
)
async def test_the_label_says_everything_only_where_nobody_tells_anything(
    store: Store, views: list[DeviceView], covers: str
) -> None:
    row = PrivacyDesk(book_on(store), DEVICES, cohort=0, minimum=3).row(views)
    assert row is not None
    assert row.covers == covers
