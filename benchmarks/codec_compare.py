"""Accuracy against bytes for every codec on one task: the trade-off table of the documentation.

python benchmarks/codec_compare.py --json FILE.json --plot FILE.png

Digits, 9,610 parameters, 40 devices split by Dirichlet(0.3), 60 rounds, two seeds, as long as nothing else
is asked for. Accuracy is on all devices' held-out examples, the mean of the last five rounds; bytes up are a
device's share in clear (what sealing and signing add is the same for every codec), bytes down the step.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from federated import Field, Row
from output import Figure, write
from rich.console import Console
from rich.table import Table

from shoal_coordinator.planning import RING_LEVELS, PlanSettings

LAST_ROUNDS = 5
PARAMETERS = 9610


@dataclass(frozen=True)
class Case:
    """One codec and its settings; ``mode`` ``hubs`` is secret-shared."""

    name: str
    mode: str
    codec: str
    kept_share: float = 1.0
    levels: int = 8

    def settings(self) -> PlanSettings:
        """Return the plan settings that the coordinator would have."""
        clamp, range_factor = RING_LEVELS[self.levels]
        return PlanSettings(
            fleet="compare",
            mode=self.mode,  # type: ignore[arg-type]
            codec=self.codec,
            kept_share=self.kept_share,
            clip_norm=8.0,
            clamp=clamp,
            range_factor=range_factor,
        )


CASES = (
    Case("fp32", "plain", "dense"),
    Case("int8", "plain", "int8"),
    Case("int4", "plain", "int4"),
    Case("topk 5 % int8", "plain", "topk", 0.05),
    Case("topk 5 % int4", "plain", "topk4", 0.05),
    Case("topk 1 % int8", "plain", "topk", 0.01),
    Case("topk 1 % int4", "plain", "topk4", 0.01),
    Case("randk 10 % int8, plain", "plain", "randk", 0.1),
    Case("randk 10 % int4, plain", "plain", "randk4", 0.1),
    Case("dense int8, shared", "hubs", "randk"),
    Case("dense int4, shared", "hubs", "randk", levels=4),
    Case("randk 20 % int4, shared", "hubs", "randk", 0.2, 4),
    Case("randk 10 % int8, shared", "hubs", "randk", 0.1),
    Case("randk 10 % int4, shared", "hubs", "randk", 0.1, 4),
    Case("randk 5 % int8, shared", "hubs", "randk", 0.05),
    Case("randk 5 % int4, shared", "hubs", "randk", 0.05, 4),
    Case("global_topk 20 % int4, shared", "hubs", "global_topk", 0.2, 4),
    Case("global_topk 10 % int8, shared", "hubs", "global_topk", 0.1),
    Case("global_topk 5 % int8, shared", "hubs", "global_topk", 0.05),
)


@dataclass(frozen=True)
class Outcome:
    """What a case came to: one row per seed and round."""

    case: Case
    runs: list[list[Row]] = field(repr=False)
    cpu_s: float

    @property
    def accuracies(self) -> list[float]:
        """The mean accuracy of the last rounds, by seed."""
        return [fmean(row.accuracy for row in run[-LAST_ROUNDS:]) for run in self.runs]

    @property
    def up_bytes(self) -> float:
        """Bytes up of a device in a round."""
        return fmean(row.up_bytes for run in self.runs for row in run)

    @property
    def down_bytes(self) -> float:
        """Bytes down to a device that keeps up."""
        return fmean(row.down_bytes for run in self.runs for row in run)

    @property
    def times_smaller(self) -> float:
        """How many times fewer bytes up than fp32."""
        return 4 * PARAMETERS / self.up_bytes


def run_case(job: tuple[Case, Sequence[int], int, int]) -> Outcome:
    """Train one case with every seed."""
    case, seeds, devices, rounds = job
    began = time.process_time()
    runs = [list(Field(devices, seed).rounds(case.settings(), rounds)) for seed in seeds]
    return Outcome(case, runs, time.process_time() - began)


def compare(
    cases: Sequence[Case], seeds: Sequence[int], *, devices: int, rounds: int, processes: int = 1
) -> list[Outcome]:
    """Train every case, the largest number of bytes first."""
    jobs = [(case, seeds, devices, rounds) for case in cases]
    if processes == 1:
        outcomes = [run_case(job) for job in jobs]
    else:
        # The interpreter has threads of its own, which a fork would leave behind half alive.
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            outcomes = pool.map(run_case, jobs, chunksize=1)
    return sorted(outcomes, key=lambda one: -one.up_bytes)


def show(outcomes: Sequence[Outcome]) -> None:
    """Print the table."""
    table = Table(title="accuracy against bytes")
    table.add_column("codec")
    for heading in ("accuracy", "by seed", "bytes up", "times smaller", "bytes down", "may be shared"):
        table.add_column(heading, justify="right")
    for one in outcomes:
        table.add_row(
            one.case.name,
            f"{fmean(one.accuracies):.3f}",
            " ".join(f"{accuracy:.3f}" for accuracy in one.accuracies),
            f"{one.up_bytes:,.0f}",
            f"{one.times_smaller:.1f}",
            f"{one.down_bytes:,.0f}",
            "yes" if one.case.mode == "hubs" else "no",
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def figures(outcomes: Sequence[Outcome]) -> list[Figure]:
    """Return the figures of every case."""
    found = []
    for one in outcomes:
        key = one.case.name.replace(" % ", "_").replace(", ", ".").replace(" ", "_")
        found += [
            Figure(f"{key}.accuracy", [round(value, 4) for value in one.accuracies], "share"),
            Figure(f"{key}.up_bytes", [one.up_bytes], "bytes", "fp32", 4.0 * PARAMETERS),
            Figure(f"{key}.down_bytes", [one.down_bytes], "bytes", "fp32", 4.0 * PARAMETERS),
            Figure(f"{key}.cpu_s", [one.cpu_s], "CPU-s"),
        ]
    return found


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--plot", type=Path, help="draw the picture there (PNG; needs matplotlib)")
    parser.add_argument("--rounds", type=int, default=60, help="default %(default)s")
    parser.add_argument("--devices", type=int, default=40, help="default %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="one run of each codec for each")
    parser.add_argument("--codecs", nargs="+", help="only cases whose names begin with one of these")
    parser.add_argument("--processes", type=int, default=2, help="codecs tried at once (default %(default)s)")
    given = parser.parse_args()
    cases = [case for case in CASES if not given.codecs or case.name.startswith(tuple(given.codecs))]
    outcomes = compare(
        cases, given.seeds, devices=given.devices, rounds=given.rounds, processes=given.processes
    )
    show(outcomes)
    settings: dict[str, Any] = {
        "task": "digits",
        "parameters": PARAMETERS,
        "devices": given.devices,
        "dirichlet": 0.3,
        "rounds": given.rounds,
        "seeds": given.seeds,
    }
    write("codec_compare", settings, figures(outcomes), given.json)
    if given.plot:
        from codec_plot import draw  # noqa: PLC0415 - matplotlib is wanted for the picture only

        draw(outcomes, given.plot)


if __name__ == "__main__":
    main()
