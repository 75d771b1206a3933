"""Which algorithm rounds use, and where it does not work: said at the start, with the remedy."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from shoal_codecs.wire.errors import InvalidPlanError
from shoal_codecs.wire.packing import pack
from shoal_codecs.wire.plan import TrainingPlan, decode_plan, encode_plan
from shoal_codecs.wire.task import TaskBundle, TrainingDefaults, decode_task
from shoal_codecs.wire.told import PlainShare, Told
from shoal_coordinator.algorithms.choosing import chosen_algorithm, weight_cap
from shoal_coordinator.algorithms.errors import IncompatibleAlgorithmError, UnknownAlgorithmError
from shoal_coordinator.algorithms.registry import ALGORITHMS
from shoal_coordinator.algorithms.schedules import ScheduleSettings
from shoal_coordinator.algorithms.settings import AlgorithmSettings
from shoal_coordinator.config import CoordinatorSettings, PrivacySettings, RoundSettings, shipped
from shoal_coordinator.plain_reports import open_update
from shoal_coordinator.round_errors import InvalidReportError
from shoal_coordinator.service import plan_settings
from wire_parts import plain_plan, plan

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def digits() -> TaskBundle:
    return decode_task(shipped("digits.task").read_bytes())


def rounds(name: str = "", weighting: Any = "examples", **changes: Any) -> RoundSettings:
    return RoundSettings(algorithm=AlgorithmSettings(name=name, weighting=weighting), **changes)


def test_settings_come_before_the_task_and_the_task_before_fedavg(digits: TaskBundle) -> None:
    assert chosen_algorithm(rounds(), digits).name == "fedavg"
    own = msgspec.structs.replace(
        digits, defaults=TrainingDefaults(algorithm="fedprox", mu=0.1), abilities=("mu",)
    )
    assert chosen_algorithm(rounds(), own).name == "fedprox"
    assert chosen_algorithm(rounds("fedavg"), own).name == "fedavg"


def test_what_the_settings_leave_open_the_task_says(digits: TaskBundle) -> None:
    task = TrainingDefaults(3, 0.5, 8, mu=0.25, clip_norm=2.0, kept_share=0.2, weight_cap=40)
    own = msgspec.structs.replace(digits, defaults=task, abilities=("mu",))
    found = plan_settings(CoordinatorSettings(), own, 10)
    assert (found.mu, found.clip_norm, found.kept_share, found.weight_cap) == (0.25, 2.0, 0.2, 40)
    theirs = RoundSettings(mu=0.5, clip_norm=3.0, kept_share=0.1, weight_cap=20)
    found = plan_settings(CoordinatorSettings(rounds=theirs), own, 10)
    assert (found.mu, found.clip_norm, found.kept_share, found.weight_cap) == (0.5, 3.0, 0.1, 20)
    found = plan_settings(CoordinatorSettings(), digits, 10)
    assert (found.clip_norm, found.kept_share, found.weight_cap) == (8.0, 0.05, 150)


def test_a_name_that_is_not_there_is_answered_with_those_that_are(digits: TaskBundle) -> None:
    with pytest.raises(UnknownAlgorithmError, match=r"'fedsgd'.*fedavg"):
        chosen_algorithm(rounds("fedsgd"), digits)


@pytest.mark.parametrize(
    ("asked", "remedy"),
    [
        (rounds(mu=0.1), "author it with prox=True"),
        (rounds("fedprox"), "set rounds.mu"),
        (rounds("median"), "set rounds.mode to plain"),
        (rounds("qfedavg", mode="single"), "set rounds.mode to plain"),
        (rounds("fedadam", codec="global_topk"), "another than global_topk"),
        (rounds("median", mode="plain", codec="topk"), "another than topk, topk4"),
        (rounds("krum", mode="plain", privacy=PrivacySettings(mechanism="auto")), "mechanism to none"),
        (rounds("krum", "uniform", mode="plain", minimum=5), "leave rounds.algorithm.weighting"),
        (rounds("krum", mode="plain"), "3 reports at a hostile_share of 0.2.* rounds.minimum to 5"),
        (
            RoundSettings(
                algorithm=AlgorithmSettings(name="trimmed_mean", hostile_share=0.6), mode="plain", minimum=20
            ),
            "hostile_share under 0.5",
        ),
        (rounds("fednova"), "set rounds.algorithm.even_steps"),
        (rounds("scaffold", mode="plain", codec="int8"), "author it with correction=True"),
        (rounds("scaffold"), "set rounds.mode to plain"),
        (rounds("scaffold", mode="plain"), "another than randk, randk4"),
        (rounds(weighting="validation"), "use mode plain"),
        (
            rounds(weighting="validation", mode="plain", privacy=PrivacySettings(mechanism="auto")),
            "without noise",
        ),
    ],
)
def test_what_does_not_work_is_refused_with_the_remedy(
    asked: RoundSettings, remedy: str, digits: TaskBundle
) -> None:
    digits = msgspec.structs.replace(digits, abilities=())
    with pytest.raises(IncompatibleAlgorithmError, match=remedy):
        chosen_algorithm(asked, digits)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_key_of_another_algorithm_is_refused_by_name_and_one_of_its_own_is_not(
    name: str, digits: TaskBundle
) -> None:
    able = msgspec.structs.replace(digits, abilities=("mu", "correction"))
    changed: dict[str, Any] = {"weighting": "uniform", "hostile_share": 0.25, "momentum": 0.0}
    changed |= dict.fromkeys(("beta_1", "beta_2", "adaptivity", "fairness", "staleness_power"), 0.125)
    changed |= dict.fromkeys(("even_steps", "krum_kept", "norm_bound", "buffer", "staleness_limit"), 3)
    assert {"name", *changed} == set(AlgorithmSettings.__struct_fields__)
    for key, value in changed.items():
        algorithm = AlgorithmSettings(name=name, **{key: value})
        asked = RoundSettings(algorithm=algorithm, mode="plain", codec="int8", minimum=9, mu=0.1)
        if key in ALGORITHMS[name].options:
            assert chosen_algorithm(asked, able).name == name
        else:
            with pytest.raises(IncompatibleAlgorithmError, match=rf"rounds\.algorithm\.{key}\b"):
                chosen_algorithm(asked, able)


def test_who_reads_the_keys_is_named(digits: TaskBundle) -> None:
    two = RoundSettings(algorithm=AlgorithmSettings(momentum=0.5, beta_2=0.9))
    one = RoundSettings(algorithm=AlgorithmSettings(beta_2=0.9))
    fault = "fedavg does not read rounds.algorithm.momentum, rounds.algorithm.beta_2: take them out$"
    with pytest.raises(IncompatibleAlgorithmError, match=fault):
        chosen_algorithm(two, digits)
    with pytest.raises(IncompatibleAlgorithmError, match=r"take it out, or use fedadam or fedyogi$"):
        chosen_algorithm(one, digits)


@pytest.mark.parametrize("kind", ["constant", "step", "cosine", "sqrt"])
def test_a_key_of_another_schedule_is_refused_by_name(kind: Any, digits: TaskBundle) -> None:
    changed: dict[str, Any] = {"warmup": 3, "every": 3, "factor": 0.25, "rounds": 30, "least": 0.25}
    assert {"kind", *changed} == set(ScheduleSettings.__struct_fields__)
    for key, value in changed.items():
        schedule = ScheduleSettings(kind=kind, **{key: value})
        plain = [ScheduleSettings(kind=kind).at(version) for version in range(200)]
        asked = RoundSettings(server_schedule=schedule)
        # Whether the rate hangs on the key decides, and not a table that says so.
        if [schedule.at(version) for version in range(200)] != plain:
            assert chosen_algorithm(asked, digits).name == "fedavg"
        else:
            with pytest.raises(
                IncompatibleAlgorithmError, match=rf"{kind} .*rounds\.server_schedule\.{key}: "
            ):
                chosen_algorithm(asked, digits)


def test_uniform_weights_work_in_every_mode_for_the_cap_is_one_example(digits: TaskBundle) -> None:
    assert weight_cap(chosen_algorithm(rounds(weighting="uniform"), digits), 150) == 1
    assert plan_settings(CoordinatorSettings(rounds=rounds(weighting="uniform")), digits, 10).weight_cap == 1


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - {"fedprox"}))
def test_every_algorithm_works_in_mode_plain(name: str, digits: TaskBundle) -> None:
    algorithm = chosen_algorithm(rounds(name, mode="plain", codec="int8", minimum=5), digits)
    assert type(algorithm) is ALGORITHMS[name]


def test_steps_are_made_even_on_the_device_where_nobody_sees_one_update(digits: TaskBundle) -> None:
    asked = AlgorithmSettings(name="fednova", even_steps=20)
    shared = plan_settings(CoordinatorSettings(rounds=RoundSettings(algorithm=asked)), digits, 10)
    assert (shared.even_steps, shared.tells) == (20, ())
    clear = RoundSettings(algorithm=asked, mode="plain")
    seen = plan_settings(CoordinatorSettings(rounds=clear), digits, 10)
    assert (seen.even_steps, seen.tells) == (0, ("steps",))


def reference_row(name: str) -> str:
    """What docs/reference/algorithms.md says of an algorithm, made from the code that checks it."""
    kind = ALGORITHMS[name]
    modes = "all" if len(kind.modes) == 3 else ", ".join(sorted(kind.modes))
    codecs = f"not {', '.join(sorted(kind.refused_codecs))}" if kind.refused_codecs else "all of the mode"
    keys = ", ".join(f"`{key}`" for key in kind.options) or "none"
    asks = ", ".join(kind.tells) or "nothing"
    noise = "yes" if kind.noise else "no"
    return f"| `{name}` | {modes} | {codecs} | {noise} | {asks} | {keys} | {kind.rate:g} |"


def test_the_reference_is_what_the_code_checks() -> None:
    page = (ROOT / "docs" / "reference" / "algorithms.md").read_text()
    listed = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert listed == [*ALGORITHMS, *ALGORITHMS]
    for name, kind in ALGORITHMS.items():
        assert reference_row(name) in page
        assert f"| `{name}` | {kind.paper} | `{kind.formula}` |" in page


def test_every_algorithm_is_called_what_the_registry_calls_it() -> None:
    for name, kind in ALGORITHMS.items():
        assert kind.name == name
        assert kind.paper
        assert kind.formula
        assert set(kind.options) <= set(AlgorithmSettings.__struct_fields__)


@pytest.mark.parametrize(
    ("training", "fault"),
    [
        ({"mu": -1.0}, "mu -1"),
        ({"mu": float("nan")}, "mu nan"),
        ({"even_steps": float("inf")}, "even steps"),
        ({"tells": ("loss", "loss")}, "each is told once"),
        ({"tells": ("control",)}, "belong together"),
        ({"correction": b"c" * 32}, "belong together"),
        ({"correction": b"c", "tells": ("control",)}, "not 32 bytes"),
    ],
)
def test_what_a_plan_asks_of_devices_holds_together(training: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidPlanError, match=fault):
        plain_plan(training=TrainingPlan(1, 0.1, 8, **training))


def test_nothing_is_told_where_single_updates_are_hidden() -> None:
    with pytest.raises(InvalidPlanError, match="mode 'plain' without noise"):
        plan(training=TrainingPlan(1, 0.1, 8, tells=("loss",)))


def test_a_plan_that_asks_for_more_comes_back_as_it_was_signed() -> None:
    asks = TrainingPlan(1, 0.1, 8, algorithm="x", mu=0.5, correction=b"c" * 32, tells=("control", "steps"))
    made = plain_plan(training=asks)
    assert decode_plan(encode_plan(made)) == made
    unknown = encode_plan(made).replace(b"\xa5steps", b"\xa5names")
    with pytest.raises(InvalidPlanError):
        decode_plan(unknown)


@pytest.mark.parametrize(
    "told",
    [
        Told(),
        Told(steps=-1),
        Told(steps=1, loss=float("nan")),
        Told(steps=1, loss=-1.0),
        Told(steps=1, score=1.5),
        Told(steps=1, control=b"c"),
    ],
)
def test_words_that_cannot_be_true_are_no_report(told: Told) -> None:
    asks = TrainingPlan(1, 0.1, 8, tells=("steps",))
    made = plain_plan(training=asks)
    with pytest.raises(InvalidReportError, match="not what the plan asks for"):
        open_update(made, pack(PlainShare(10, b"", told)))
