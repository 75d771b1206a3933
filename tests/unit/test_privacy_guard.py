"""The device's own budget: nothing leaves that was not debited, wherever the power goes."""

import asyncio
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_parts import codec_plan, invitation_to, make_fleet, make_plan, offer_of
from shoal_codecs.privacy.budget import rounds_within
from shoal_codecs.privacy.charge import charge_of
from shoal_codecs.privacy.errors import BudgetExceededError
from shoal_codecs.privacy.ledger import HEADER, decode_ledger
from shoal_codecs.settings import SettingsError, load_settings
from shoal_codecs.wire.messages import Reply, ReportPart
from shoal_codecs.wire.plan import Plan, PrivacyPlan, encode_plan, plan_hash
from shoal_edge import privacy_guard
from shoal_edge.cli import main
from shoal_edge.config import DevicePrivacy, EdgeSettings
from shoal_edge.errors import SecondReportError, StoreError, UnprivateRoundError, WorkerCrashedError
from shoal_edge.privacy_guard import LEDGER, PrivacyGuard, open_ledger
from shoal_edge.round_events import Cancelled, Job, ModelReady, Phase, SealedReport
from shoal_edge.rounds import Rounds
from shoal_edge.single_rounds import SingleRounds
from shoal_edge.single_store import SingleStore
from shoal_edge.store import DeviceStore
from shoal_edge.width import Width

FLEET = make_fleet()
MODEL = offer_of(b"\0" * 4 * 9610)
REPORT = SealedReport(b"r" * 32, {"hub-1": b"one" * 50, "hub-2": b"two"})
NOISE = PrivacyPlan(mechanism="skellam", noise=4.4e6, corrupt=1, delta=1e-5)
BUDGET = DevicePrivacy(epsilon=8.0)
CAP = 1_000_000


def plan(number: int = 7, **changes: Any) -> Plan:
    named = {"privacy": NOISE, "codec": codec_plan(4, ring_bits=20)} | changes
    return make_plan(FLEET, MODEL.digest, round=number, **named)


def hash_of(made: Plan) -> bytes:
    return plan_hash(encode_plan(made))


def guard_in(folder: Path, budget: DevicePrivacy = BUDGET) -> PrivacyGuard:
    return PrivacyGuard(budget, folder, open_ledger(folder, make=True), lambda: 1_700_000_000_000)


# --- the file -----------------------------------------------------------------------------------


def test_a_ledger_is_made_where_no_agent_has_worked_and_only_there(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    assert open_ledger(tmp_path, make=True).exhausted == ""
    assert (tmp_path / LEDGER).read_bytes() == HEADER
    DeviceStore(tmp_path, CAP)
    (tmp_path / LEDGER).unlink()
    for _ in range(2):
        assert "missing" in open_ledger(tmp_path, make=True).exhausted
    assert not (tmp_path / LEDGER).exists()


@pytest.mark.parametrize(
    "trace",
    [
        "answered.log",
        "held.bin",
        "round.bin",
        "outbox",
        "models",
        "blobs",
        "releases",
        "single",
        "privacy.lock",
    ],
)
def test_whatever_an_agent_leaves_says_that_there_was_a_ledger(tmp_path: Path, trace: str) -> None:
    (tmp_path / trace).mkdir()
    assert "missing" in open_ledger(tmp_path, make=True).exhausted


def test_the_first_start_makes_the_folder_too(tmp_path: Path) -> None:
    assert open_ledger(tmp_path / "data" / "deep", make=True).exhausted == ""
    (tmp_path / "file").write_text("")
    # Said by the store, which needs the folder as well.
    assert "cannot be read" in open_ledger(tmp_path / "file" / "data", make=True).exhausted


def test_looking_makes_no_ledger(tmp_path: Path) -> None:
    assert "missing" in open_ledger(tmp_path, make=False).exhausted
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"nonsense", HEADER + b"\0"])
def test_a_damaged_ledger_is_a_spent_one_and_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LEDGER).write_bytes(content)
    guard = guard_in(tmp_path)
    with pytest.raises(BudgetExceededError, match="damaged"):
        guard.check(plan(), hash_of(plan()))
    with pytest.raises(BudgetExceededError, match="damaged"):
        guard.debit(plan(), hash_of(plan()), REPORT.report_id)
    free = guard_in(tmp_path, DevicePrivacy())
    free.debit(plan(), hash_of(plan()), REPORT.report_id)
    assert (tmp_path / LEDGER).read_bytes() == content


def test_a_ledger_that_cannot_be_read_is_a_spent_one(tmp_path: Path) -> None:
    (tmp_path / LEDGER).mkdir()
    assert "cannot be read" in guard_in(tmp_path).ledger.exhausted


def test_a_missing_ledger_does_not_come_back_by_a_debit(tmp_path: Path) -> None:
    DeviceStore(tmp_path, CAP)
    guard_in(tmp_path, DevicePrivacy()).debit(plan(), hash_of(plan()), REPORT.report_id)
    assert not (tmp_path / LEDGER).exists()


def test_a_debit_is_on_disk_once_and_for_all_tasks(tmp_path: Path) -> None:
    guard = guard_in(tmp_path)
    other = plan(8, task=b"u" * 32)
    for made in (plan(), plan(), other):
        guard.debit(made, hash_of(made), REPORT.report_id)
    again = open_ledger(tmp_path, make=True)
    assert [(entry.round, entry.task) for entry in again.entries.values()] == [
        (7, plan().task),
        (8, b"u" * 32),
    ]
    assert again.spent(1e-5) == charge_of(plan()).times(2).epsilon(1e-5)


def test_two_agents_in_one_folder_lose_no_debit(tmp_path: Path) -> None:
    """Started twice by mistake: each knows only the ledger of its own start."""
    one, other = guard_in(tmp_path), guard_in(tmp_path)
    one.debit(plan(1), hash_of(plan(1)), REPORT.report_id)
    other.debit(plan(2), hash_of(plan(2)), REPORT.report_id)
    one.debit(plan(3), hash_of(plan(3)), REPORT.report_id)
    again = open_ledger(tmp_path, make=False)
    assert [entry.round for entry in again.entries.values()] == [1, 2, 3]
    assert one.ledger.spent(1e-5) == again.spent(1e-5)


@pytest.mark.parametrize("content", [None, b"nonsense"])
def test_a_ledger_that_is_lost_under_a_running_agent_is_a_spent_one(
    tmp_path: Path, content: bytes | None
) -> None:
    guard = guard_in(tmp_path)
    guard.debit(plan(1), hash_of(plan(1)), REPORT.report_id)
    (tmp_path / LEDGER).unlink()
    if content is not None:
        (tmp_path / LEDGER).write_bytes(content)
    with pytest.raises(BudgetExceededError, match="counts as spent"):
        guard.debit(plan(2), hash_of(plan(2)), REPORT.report_id)


def test_a_debit_pays_for_one_report_only(tmp_path: Path) -> None:
    """Rounded and noised anew it is another release, also where what was answered got lost."""
    guard = guard_in(tmp_path)
    guard.debit(plan(), hash_of(plan()), b"1" * 32)
    again = guard_in(tmp_path)
    again.debit(plan(), hash_of(plan()), b"1" * 32)
    with pytest.raises(SecondReportError, match="noised anew"):
        again.debit(plan(), hash_of(plan()), b"2" * 32)
    assert len(open_ledger(tmp_path, make=False).entries) == 1


def test_a_report_that_is_lost_after_its_debit_is_not_made_twice(tmp_path: Path) -> None:
    first = live(tmp_path, 1, 99)
    assert first is not None
    assert first.wire.sent == [1, 1]
    # The disk lost what was answered and what waited; round and ledger are still there.
    (tmp_path / "answered.log").write_bytes(b"")
    for report in (tmp_path / "outbox").iterdir():
        report.write_bytes(b"damaged")
    again = live(tmp_path, 1, 99)
    assert again is not None
    assert again.wire.sent == []
    (reply,) = [one for one in again.said if isinstance(one, Reply) and not one.accepted]
    assert reply.reason.startswith("SecondReportError: round 1 was paid for another report")
    assert not reply.unsent


def test_a_disk_that_takes_no_debit_lets_nothing_be_sent(tmp_path: Path) -> None:
    guard = guard_in(tmp_path)
    (tmp_path / f"{LEDGER}.new").mkdir()
    with pytest.raises(StoreError, match="cannot write"):
        guard.debit(plan(), hash_of(plan()), REPORT.report_id)
    assert guard.ledger.entries == {}


def test_the_ledger_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privacy_guard, "ENTRIES_KEPT", 8)
    guard = guard_in(tmp_path, DevicePrivacy())
    cost = charge_of(plan())
    count = 50
    made = plan()
    for number in range(count):
        guard.debit(made, number.to_bytes(32, "big"), REPORT.report_id)
    again = open_ledger(tmp_path, make=True)
    assert 8 <= len(again.entries) <= 16
    assert again.total.rdp == pytest.approx(cost.times(count).rdp)


# --- what is refused ----------------------------------------------------------------------------


def test_with_a_budget_rounds_without_noise_are_refused(tmp_path: Path) -> None:
    bare = plan(privacy=None)
    with pytest.raises(UnprivateRoundError, match="adds no noise"):
        guard_in(tmp_path).check(bare, hash_of(bare))
    guard_in(tmp_path, DevicePrivacy()).check(bare, hash_of(bare))


def test_exactly_the_rounds_that_fit_are_taken(tmp_path: Path) -> None:
    fit = rounds_within(charge_of(plan()), 8.0, 1e-5)
    assert 5 < fit < 500
    guard = guard_in(tmp_path)
    for number in range(1, fit + 1):
        made = plan(number)
        guard.check(made, hash_of(made))
        guard.debit(made, hash_of(made), REPORT.report_id)
    last = plan(fit + 1)
    with pytest.raises(BudgetExceededError, match="the device allows 8"):
        guard.check(last, hash_of(last))
    # What was debited may still be sent, after a restart too.
    guard_in(tmp_path).debit(plan(fit), hash_of(plan(fit)), REPORT.report_id)
    with pytest.raises(BudgetExceededError, match="the device allows 8"):
        guard_in(tmp_path).debit(last, hash_of(last), REPORT.report_id)


def test_a_budget_that_is_set_later_counts_what_was_spent_before(tmp_path: Path) -> None:
    free = guard_in(tmp_path, DevicePrivacy())
    for number in range(1, 10):
        free.debit(plan(number), hash_of(plan(number)), REPORT.report_id)
    strict = guard_in(tmp_path, DevicePrivacy(epsilon=free.ledger.spent(1e-5)))
    with pytest.raises(BudgetExceededError):
        strict.check(plan(10), hash_of(plan(10)))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({}, "clear"),
        ({"epsilon": 8.0}, "verdict"),
        ({"epsilon": 8.0, "metrics": "none"}, "none"),
        ({"epsilon": 8.0, "metrics": "clear"}, "clear"),
        ({"metrics": "verdict"}, "verdict"),
    ],
)
def test_what_is_told_besides_updates(said: dict[str, Any], told: str) -> None:
    assert DevicePrivacy(**said).told == told


@pytest.mark.parametrize("said", ["epsilon = -1.0", "epsilon = inf", "delta = 0.0", "delta = 1.0"])
def test_what_is_no_budget_is_refused(tmp_path: Path, said: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f"[privacy]\n{said}\n")
    with pytest.raises(SettingsError, match="no privacy budget"):
        load_settings(EdgeSettings, path, environment={})


# --- what its owner sees ------------------------------------------------------------------------


def test_the_owner_reads_the_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.toml").write_text('name = "device-01"\n[privacy]\nepsilon = 8.0\n')
    (tmp_path / "data").mkdir()
    guard = guard_in(tmp_path / "data")
    for number in range(1, 15):
        guard.debit(plan(number), hash_of(plan(number)), REPORT.report_id)
    assert main(["privacy", "--data-dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert f"epsilon {guard.ledger.spent(1e-5):.3f}" in shown
    assert "4 earlier ones" in shown
    assert main(["privacy", "--data-dir", str(tmp_path), "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["spent"] == pytest.approx(guard.ledger.spent(1e-5))
    assert [one["round"] for one in found["charges"]] == list(range(1, 15))
    assert found["charges"][-1]["epsilon_after"] == pytest.approx(found["spent"])
    (tmp_path / "data" / LEDGER).unlink()
    assert main(["privacy", "--data-dir", str(tmp_path)]) == 0
    assert "all of it: the privacy ledger is missing" in capsys.readouterr().out


# --- where the power goes -----------------------------------------------------------------------


class PowerCutError(BaseException):
    """The power is gone; nothing after this runs, not even what handles errors."""


class Wire:
    """The link of one life: at every byte it looks for the debit on the disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sent: list[int] = []
        self.unpaid: list[int] = []
        self.done = asyncio.Event()

    async def wait_connected(self) -> None:
        await asyncio.sleep(0)

    async def subscribe(self, *_: Any) -> None:
        await asyncio.sleep(0)

    unsubscribe = subscribe

    async def publish(self, topic: str, payload: bytes) -> None:
        _, message = FLEET.post("hub-1").open(topic, payload)
        assert isinstance(message, ReportPart)
        on_disk = decode_ledger((self.folder / LEDGER).read_bytes())
        paid = {entry.round for entry in on_disk.entries.values()}
        self.sent.append(message.round)
        if on_disk.exhausted or message.round not in paid:
            self.unpaid.append(message.round)
        if len(self.sent) == len(REPORT.parts):
            self.done.set()


class Keeper:
    """Task and model are on the disk."""

    async def task(self, _ref: Any) -> Path:
        return Path("task")

    async def model(self, *_: Any, **__: Any) -> Path:
        return Path("model")

    def forget_damaged(self, *_: Any) -> None:
        pass


class Worker:
    """Every fit draws anew, as noise does."""

    async def request(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {"ciphertexts": [os.urandom(40), os.urandom(40)]}


class Bomb(Worker):
    """A task that ends its worker on these very examples, with their numbers as its last words."""

    async def request(self, *_: Any, train: bool = True, **__: Any) -> dict[str, Any]:
        if train:
            raise WorkerCrashedError("the worker ended with code 1 during fit_and_report: example 4711")
        return await super().request()


class Life:
    """One process of the agent's rounds, from its start to its end or the power cut."""

    def __init__(self, folder: Path, budget: DevicePrivacy, worker: Worker | None = None) -> None:
        self.wire = Wire(folder)
        self.said: list[Any] = []
        ledger = open_ledger(folder, make=True)
        self.store = DeviceStore(folder, CAP)
        settings = EdgeSettings(name="device-01", folder=str(folder), resend_s=60.0)
        post = FLEET.post("device-01")
        self.rounds = Rounds(
            settings=settings,
            post=post,
            link=self.wire,  # type: ignore[arg-type]
            store=self.store,
            worker=worker or Worker(),  # type: ignore[arg-type]
            keeper=Keeper(),  # type: ignore[arg-type]
            width=Width(settings, folder, (worker or Worker()).request),
            evaluations=None,  # type: ignore[arg-type]
            single=SingleRounds(
                settings=settings,
                post=post,
                link=self.wire,  # type: ignore[arg-type]
                store=SingleStore(folder / "single"),
                worker=Worker(),  # type: ignore[arg-type]
                note_fault=lambda _: None,
            ),
            guard=PrivacyGuard(budget, folder, ledger, lambda: 1_700_000_000_000),
            say=self.said.append,
            on_phase=lambda _: None,
            note_fault=lambda _: None,
            clock=lambda: 1_700_000_000.0,
        )

    async def run(self, job: Job) -> None:
        """Go on with what an earlier life left of ``job``, or begin it."""
        if self.store.restore() is None and not self.store.has_answered(job.plan_hash):
            self.store.persist_job(job)
        running = asyncio.create_task(self.rounds.run())
        done = asyncio.create_task(self.wire.done.wait())
        said_no = asyncio.create_task(self._until_declined())
        await asyncio.wait({running, done, said_no}, return_when=asyncio.FIRST_COMPLETED, timeout=5)
        ended = running.done()
        for task in (running, done, said_no):
            task.cancel()
        outcome = (await asyncio.gather(running, done, said_no, return_exceptions=True))[0]
        if ended and isinstance(outcome, BaseException):
            raise outcome

    async def _until_declined(self) -> None:
        while not any(isinstance(one, Reply) and not one.accepted for one in self.said):
            await asyncio.sleep(0.001)


def job(number: int) -> Job:
    made = plan(number)
    return Job(invitation_to(made, MODEL), made, encode_plan(made))


def live(folder: Path, number: int, cut: int, budget: DevicePrivacy = BUDGET) -> Life | None:
    """Run one life whose power goes at write ``cut``; return it if it did not."""
    left, real = cut, os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal left
        if left == 0:
            raise PowerCutError
        left -= 1
        real(descriptor)

    os.fsync = fsync  # type: ignore[assignment]
    try:
        life = Life(folder, budget)
        asyncio.run(life.run(job(number)))
    except PowerCutError:
        return None
    finally:
        os.fsync = real
    return life


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 12)), min_size=1, max_size=8))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_byte_leaves_before_its_debit_and_no_plan_pays_twice(lives: list[tuple[int, int]]) -> None:
    """Whatever was cut when: the wire itself looks for the debit on the disk at every byte."""
    with tempfile.TemporaryDirectory() as name:
        folder, number = Path(name), 1
        for step, cut in lives:
            number += step - 1
            life = live(folder, number, cut)
            if life is not None:
                assert life.wire.unpaid == []
                assert life.wire.sent
                life.store.forget_round(job(life.wire.sent[-1]).plan_hash)
                number += 1
            if (folder / LEDGER).exists():
                ledger = decode_ledger((folder / LEDGER).read_bytes())
                assert ledger.exhausted == ""
                rounds = [entry.round for entry in ledger.entries.values()]
                assert len(rounds) == len(set(rounds))


@pytest.mark.parametrize("cut", range(12))
def test_a_cut_round_goes_on_and_is_charged_once(tmp_path: Path, cut: int) -> None:
    live(tmp_path, 1, cut)
    life = live(tmp_path, 1, 99)
    assert life is not None
    assert life.wire.sent == [1, 1]
    assert life.wire.unpaid == []
    ledger = open_ledger(tmp_path, make=False)
    assert [entry.round for entry in ledger.entries.values()] == [1]


@pytest.mark.parametrize("metrics", ["none", "verdict", "clear"])
def test_a_worker_that_ends_on_chosen_examples_tells_nothing_of_them(tmp_path: Path, metrics: Any) -> None:
    life = Life(tmp_path, DevicePrivacy(epsilon=8.0, metrics=metrics), Bomb())
    asyncio.run(life.run(job(1)))
    said = [one.reason for one in life.said if isinstance(one, Reply) and not one.accepted]
    if metrics == "none":
        # Who tells nothing does not even tell that training failed: noise leaves, paid for.
        assert said == []
        assert life.wire.sent == [1, 1]
        assert life.wire.unpaid == []
    else:
        assert life.wire.sent == []
        (reason,) = said
        assert reason.startswith("WorkerCrashedError")
        assert ("4711" in reason) is (metrics == "clear")


class Busy(Worker):
    """A worker whose turn never comes."""

    def __init__(self) -> None:
        self.asked, self.left = asyncio.Event(), asyncio.Event()

    async def request(self, *_: Any, **__: Any) -> dict[str, Any]:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()
        return {}


async def test_a_fit_that_waits_for_its_turn_goes_with_its_round(tmp_path: Path) -> None:
    """Begun after its round it would hold up the next one's, and so on for ever."""
    worker = Busy()
    life = Life(tmp_path, BUDGET, worker)
    life.store.persist_job(job(1))
    running = asyncio.create_task(life.rounds.run())
    async with asyncio.timeout(10):
        life.rounds.tell(ModelReady(job(1).plan_hash))
        await worker.asked.wait()
        life.rounds.tell(Cancelled(job(1).plan_hash))
        await worker.left.wait()
    assert life.rounds.participant.phase is Phase.IDLE
    ended, _ = await asyncio.wait({running}, timeout=0.1)
    assert not ended
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_widths_are_measured_to_the_end_though_rounds_go_by(tmp_path: Path) -> None:
    """On a small board that takes longer than a round."""
    go_on, asked = asyncio.Event(), 0

    async def ask(*_: Any, **__: Any) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        await go_on.wait()
        return {"probes": [{"percent": 50, "fit_s": 0.1, "memory_bytes": 1}]}

    width = Width(EdgeSettings(name="device-01", width=0), tmp_path, ask)
    for _ in range(3):
        round_work = asyncio.create_task(width.measure(b"t" * 32, Path("task")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        round_work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await round_work
    go_on.set()
    await width.measure(b"t" * 32, Path("task"))
    assert (asked, width.percent(b"t" * 32)) == (1, 50)

    go_on.clear()
    round_work = asyncio.create_task(width.measure(b"u" * 32, Path("task")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    width.close()
    with pytest.raises(asyncio.CancelledError):
        await round_work


def test_a_report_whose_debit_does_not_fit_any_more_stays_here(tmp_path: Path) -> None:
    """The owner lowered the budget between acceptance and report."""
    (tmp_path / "made").mkdir()
    life = live(tmp_path, 1, 99, DevicePrivacy(epsilon=0.1))
    assert life is not None
    assert life.wire.sent == []
    (reply,) = [one for one in life.said if isinstance(one, Reply) and not one.accepted]
    assert reply.reason.startswith("BudgetExceededError: this round would bring epsilon from 0.00 to ")
