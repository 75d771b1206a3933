"""The coordinator's small decisions: when to try again, what a round cost, what an operator may ask."""

import pytest

from shoal_codecs.wire.messages import OperatorCommand
from shoal_coordinator.commands import CreateRelease, RunRounds, read_command
from shoal_coordinator.round_errors import UnknownCommandError
from shoal_coordinator.schedule import Schedule
from shoal_coordinator.traffic import TrafficMeter


def test_the_back_off_grows_with_failures_and_a_commit_ends_it() -> None:
    schedule = Schedule(target=5, shortest_ms=500, longest_ms=10_000)
    waits = [schedule.aborted(1000) for _ in range(8)]
    assert waits == [500, 1000, 2000, 4000, 8000, 10_000, 10_000, 10_000]
    assert schedule.wait_ms(0, 2000) == 9000
    schedule.committed(2000)
    assert schedule.wait_ms(1, 2000) == 0
    assert schedule.aborted(2000) == 500


def test_who_refused_a_round_is_asked_again_less_and_less_until_something_changes() -> None:
    schedule = Schedule(target=5, shortest_ms=500, longest_ms=10_000, refused_ms=300_000)
    waits = [schedule.aborted(0, refused=True) for _ in range(12)]
    assert waits[:5] == [500, 1000, 2000, 4000, 8000]
    assert waits[-2:] == [300_000, 300_000]
    assert schedule.failing_until_ms(1000) == 300_000
    schedule.something_changed()
    assert schedule.wait_ms(0, 1000) == schedule.failing_until_ms(1000) == 0
    assert schedule.aborted(1000, refused=True) == 300_000
    # Of an outage nothing is refused: it ends by itself, and is looked at soon.
    assert schedule.aborted(1000) == 10_000
    schedule.something_changed()
    assert schedule.wait_ms(0, 1000) == 10_000
    schedule.run_more(1, version=0)
    assert schedule.aborted(1000, refused=True) == 300_000
    schedule.committed(1000)
    assert schedule.aborted(1000, refused=True) == 500


def test_no_round_begins_once_the_target_is_reached() -> None:
    schedule = Schedule(target=0)
    assert schedule.wait_ms(0, 0) is None
    assert schedule.run_more(3, version=7) == 10
    assert schedule.run_more(2, version=8) == 12
    assert schedule.wait_ms(11, 0) == 0
    assert schedule.wait_ms(12, 0) is None


def test_an_operator_who_asks_for_rounds_ends_the_wait() -> None:
    schedule = Schedule(target=5)
    schedule.aborted(0)
    schedule.run_more(1, version=0)
    assert schedule.wait_ms(0, 0) == 0


def test_a_rounds_bytes_are_means_of_differences() -> None:
    meter = TrafficMeter()
    meter.evaluated("a", 100, 1000)
    meter.evaluated("b", 200, 2000)
    assert meter.close_round() == (0.0, 0.0)
    meter.evaluated("a", 1100, 4000)
    meter.evaluated("b", 3200, 7000)
    assert meter.close_round() == (2000.0, 4000.0)


def test_a_device_that_started_again_counts_from_its_new_totals() -> None:
    meter = TrafficMeter()
    meter.evaluated("a", 5000, 5000)
    meter.evaluated("a", 10, 20)
    assert meter.close_round() == (10.0, 20.0)
    meter.evaluated("a", 1010, 2020)
    assert meter.close_round() == (1000.0, 2000.0)


def test_what_a_device_fetches_for_its_first_round_is_counted() -> None:
    meter = TrafficMeter()
    meter.stood_at("a", 500, 700)
    meter.evaluated("a", 2500, 90_700)
    assert meter.close_round() == (2000.0, 90_000.0)
    meter.stood_at("a", 2600, 90_800)
    meter.evaluated("a", 4000, 93_000)
    assert meter.close_round() == (1500.0, 2300.0)


def command(action: str, **arguments: object) -> OperatorCommand:
    return OperatorCommand(
        protocol=1, sender="operator", message_id=b"8 bytes.", sent_ms=1, action=action, arguments=arguments
    )


def test_commands_are_typed() -> None:
    assert read_command(command("rounds.run", count=4)) == RunRounds(4)
    assert read_command(command("release.create", version=2, name="spring")) == CreateRelease(2, "spring")


@pytest.mark.parametrize(
    ("action", "arguments"),
    [
        ("rounds.halt", {}),
        ("rounds.run", {"count": 0}),
        ("rounds.run", {"count": "many"}),
        ("rounds.run", {"counts": 3}),
        ("release.withdraw", {}),
    ],
)
def test_commands_that_nobody_knows_are_refused(action: str, arguments: dict[str, object]) -> None:
    with pytest.raises(UnknownCommandError):
        read_command(command(action, **arguments))
