"""The published learning curves on the real system: coordinator, hubs, broker and a swarm of devices.

python benchmarks/learning.py --json benchmarks/results/learning.json --part mnist-2nn-iid

Every part goes on where it was when it was stopped; its figures join those that the file has already.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import learning_plots
from learning_curve import Curve, run_centralised, run_part
from learning_data import TASKS, files_of
from learning_parts import MCMAHAN, PARTS, Part
from output import Figure, machine

from shoal_codecs import __version__

Points = list[tuple[int, float]]
ROOT = Path(__file__).resolve().parents[1]


def figures_of(part: Part, curves: dict[str, Points], curve: Curve) -> list[Figure]:
    """Return what is known of a part: rounds to its goal and best accuracy by seed, seconds a round.

    ``curves`` are all that are kept, ``curve`` is the newest of this part's.
    """
    stem = part.figure.removesuffix(f"_rounds_to_{round(100 * part.goal)}") or part.name.replace("-", "_")
    peer = f"{MCMAHAN}: {part.published:g}" if part.published else "none"
    own = [Curve(curve.rate, points) for name, points in curves.items() if name.split(" ")[0] == part.name]
    best = [max((accuracy for _, accuracy in one.points), default=0.0) for one in own]
    figures = [Figure(f"{stem}_best_accuracy", best, "share", peer="none: see the curve")]
    reached = [float(found) for one in own if (found := one.reached(part.goal)) is not None]
    if part.figure and len(reached) == len(own):
        figures.append(Figure(part.figure, reached, "rounds", peer=peer))
    if curve.last > 0:
        per_round = round(curve.seconds / curve.last, 3)
        figures.append(Figure(f"{stem}_seconds_per_round", [per_round], "s", peer="none: a shared machine"))
    return figures


def merge(path: Path, part: Part, curve: Curve, seed: int = 1) -> None:
    """Put a part's figures, settings and curve into the results at ``path``, in place of its earlier ones.

    A further ``seed`` joins the part's figures with a curve of its own; a new first one ends those.
    """
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    curves: dict[str, Points] = kept.get("curves", {})
    name = part.name
    if seed == 1 and curve.points[: len(curves.get(name, []))] != _points(curves.get(name, [])):
        curves = {one: points for one, points in curves.items() if one.split(" ")[0] != name}
    curves |= {name if seed == 1 else f"{name} seed {seed}": curve.points}
    figures = {one["figure"]: one for one in kept.get("figures", []) if one["figure"] != part.figure}
    figures |= {one.figure: asdict(one) for one in figures_of(part, curves, curve)}
    settings = {key: value for key, value in asdict(part).items() if key != "name"}
    settings |= {"learning_rate": curve.rate, "rounds_run": curve.last}
    if seed != 1:
        settings = kept["settings"][name]
    settings |= {"seeds": sum(one.split(" ")[0] == name for one in curves)}
    result = {
        "benchmark": "learning",
        "version": __version__,
        "machine": machine(),
        "settings": kept.get("settings", {}) | {name: settings},
        "figures": [figures[one] for one in sorted(figures)],
        "curves": curves,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


def _points(kept: Points) -> Points:
    return [(number, accuracy) for number, accuracy in kept]


def chosen_rate(path: Path, part: Part) -> float:
    """Return the learning rate that the first seed of ``part`` ran with."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    settings = kept.get("settings", {}).get(part.name)
    if settings is None:
        raise SystemExit(f"{part.name}: run its first seed before others, which go on with its learning rate")
    return float(settings["learning_rate"])


def main() -> None:
    """Run the parts that were named, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/learning.json")
    parser.add_argument("--part", action="append", choices=sorted(PARTS), default=[], help="default: all")
    parser.add_argument("--seed", type=int, default=1, help="of the split and the initial weights")
    parser.add_argument("--folder", type=Path, default=ROOT / ".data/learning", help="fleets and data")
    parser.add_argument("--tasks", type=Path, default=TASKS, help="the task files")
    parser.add_argument("--plots", type=Path, help="only draw what the results hold, into this folder")
    options = parser.parse_args()
    if options.plots:
        learning_plots.draw(json.loads(options.json.read_text(encoding="utf-8")), options.plots)
        return

    def heard(part: Part, curve: Curve) -> None:
        merge(options.json, part, curve, options.seed)
        if curve.points:
            print(f"{part.name}: version {curve.last} {curve.points[-1][1]:.4f}", flush=True)

    for name in options.part or PARTS:
        part = PARTS[name]
        train, test = files_of(part.data, options.folder)
        if part.centralised:
            run_centralised(part, options.tasks / f"{part.task}.task", train, test, heard)
            continue
        if options.seed != 1:
            part = replace(part, rates=(chosen_rate(options.json, part),))
        task = options.tasks / f"{part.task}.task"
        asyncio.run(run_part(part, task, train, test, options.folder, heard, options.seed))


if __name__ == "__main__":
    main()
