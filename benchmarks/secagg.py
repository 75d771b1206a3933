"""CPU seconds and bytes of a secret-shared round, beside Flower's SecAgg+ in the same run.

    benchmarks/peers/flower.sh
    python benchmarks/secagg.py --json benchmarks/results/secagg.json

Modes ``hubs`` (two hubs) and ``single`` run through the functions of real rounds, every coordinate kept, all
keys, signatures, seals, packing and framing included; broker and store are not. The peer is Flower's own
workflow and client code without its network (``peers/flower_round.py``). Peer and we take turns.
"""

import argparse
import json
import os
import subprocess
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

# What agents and hubs are started with too: BLAS threads spin for longer than these vectors take.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from output import Figure, write
from secagg_fleet import COORDINATOR, HUBS, Case, Costs, Fleet
from secagg_hubs import run_hubs
from secagg_single import run_single

from shoal_codecs.memory import keep_freed_memory
from shoal_codecs.secagg.single.parameters import Neighbourhood

ROOT = Path(__file__).parents[1]
PEER = ROOT / ".peers" / "flower" / "bin" / "python"
NO_PEER = "flwr cannot be imported: run benchmarks/peers/flower.sh first"
NOT_AT_THIS_SIZE = "the peer runs at the first size only: it takes minutes of CPU at this one"
CLAMP, PACKED_CLAMP = 127, 63
UNITS = {"cpu_s": "CPU s", "upload_bytes": "bytes"}


def peer_round(python: Path, case: Case, found: Neighbourhood) -> dict[str, Any] | None:
    """Return one round of Flower's, None where there is no Flower."""
    if not python.exists() or subprocess.run([python, "-c", "import flwr"], check=False).returncode:
        return None
    numbers = {
        "devices": case.devices,
        "dimension": case.dimension,
        "neighbours": found.neighbours,
        "threshold": found.threshold,
        "dropout": case.dropout,
        "runs": 1,
    }
    command = [str(python), str(ROOT / "benchmarks/peers/flower_secagg.py")]
    command += [f"--{name}={value}" for name, value in numbers.items()]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return result


def note(found: dict[str, list[float]], name: str, costs: Costs) -> None:
    """Add one round of mode ``name`` to the figures."""
    found[f"{name}.device_cpu_s"].append(median(costs.device_cpu_s))
    found[f"{name}.upload_bytes"].append(costs.upload_bytes)
    server = "coordinator" if HUBS[0] in costs.party_cpu_s else "server"
    found[f"{name}.{server}_cpu_s"].append(costs.party_cpu_s[COORDINATOR])
    hubs = [costs.party_cpu_s[hub] for hub in HUBS if hub in costs.party_cpu_s]
    if hubs:
        # The one that works hardest counts.
        found[f"{name}.hub_cpu_s"].append(max(hubs))


def measure(
    case: Case, found: Neighbourhood, runs: int, python: Path | None
) -> tuple[dict[str, list[float]], dict[str, list[float]], str]:
    """Return the figures of ours and the peer's, and what the peer is called."""
    ours: dict[str, list[float]] = defaultdict(list)
    theirs: dict[str, list[float]] = defaultdict(list)
    name = NO_PEER if python else NOT_AT_THIS_SIZE
    packed = Case(case.devices, case.dimension, case.dropout, PACKED_CLAMP)
    for _ in range(runs):
        fleet = Fleet(case)
        note(ours, "hubs", run_hubs(fleet))
        note(ours, "hubs_packed", run_hubs(Fleet(packed)))
        note(ours, "single", run_single(fleet, found))
        peer = peer_round(python, case, found) if python else None
        if peer:
            name = f"flwr {peer['version']} SecAgg+"
            for key in ("device_cpu_s", "server_cpu_s", "upload_bytes"):
                theirs[key] += peer[key]
    return ours, theirs, name


def figures_of(
    prefix: str, ours: dict[str, list[float]], theirs: dict[str, list[float]], peer: str
) -> list[Figure]:
    """Return ours beside the peer's: a hub or a coordinator beside its server."""
    figures = []
    for name, runs in ours.items():
        kind = name.partition(".")[2]
        key = kind if kind in {"device_cpu_s", "upload_bytes"} else "server_cpu_s"
        value = median(theirs[key]) if theirs.get(key) else None
        unit = UNITS["upload_bytes" if kind == "upload_bytes" else "cpu_s"]
        figures.append(Figure(prefix + name, [round(run, 6) for run in runs], unit, peer, value))
    return figures


def main() -> None:
    """Measure and write."""
    # As devices' workers do when they begin; hubs and coordinators keep more.
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--runs", type=int, default=3, help="default %(default)s")
    parser.add_argument("--devices", type=int, default=100, help="default %(default)s")
    parser.add_argument(
        "--dimensions", type=int, nargs="+", default=[1_000_000, 10_000_000], help="parameters"
    )
    parser.add_argument("--neighbours", type=int, default=32, help="mode single (default %(default)s)")
    parser.add_argument("--threshold", type=int, default=22, help="of them (default %(default)s)")
    parser.add_argument("--peer", type=Path, default=PEER, help="Python of an environment with flwr")
    options = parser.parse_args()
    found = Neighbourhood(options.neighbours, options.threshold)
    dropout = round(0.1 * options.devices)
    figures: list[Figure] = []
    for place, dimension in enumerate(options.dimensions):
        case = Case(options.devices, dimension, dropout, CLAMP)
        first = not place
        ours, theirs, peer = measure(
            case, found, options.runs if first else 1, options.peer if first else None
        )
        figures += figures_of("" if first else f"{dimension}.", ours, theirs, peer)
    settings = {
        "devices": options.devices,
        "dropout": dropout,
        "dimensions": options.dimensions,
        "neighbours": found.neighbours,
        "threshold": found.threshold,
        "clamp": CLAMP,
        "packed_clamp": PACKED_CLAMP,
    }
    write("secagg", settings, figures, options.json)
    for figure in figures:
        if figure.ratio:
            print(f"{figure.figure:<32} {1 / figure.ratio:8.1f} times less than {figure.peer}")


if __name__ == "__main__":
    main()
