"""CPU seconds and bytes of Flower's SecAgg+, printed as JSON. Runs in the environment of ``flower.sh``.

python flower_secagg.py --devices 100 --dimension 1000000 --neighbours 32 --threshold 22 --dropout 10
"""

import argparse
import importlib.metadata
import json
from statistics import median

import numpy as np
from flower_round import Outcome, run_round
from flwr.common.secure_aggregation.secaggplus_constants import Stage

EXACT_DIMENSION = 50
EXAMPLES = 100


def measured(options: argparse.Namespace, seed: int) -> Outcome:
    """Run one round in which the first ``sample`` devices mask whole vectors."""
    rng = np.random.default_rng(seed)
    lost = set(range(options.devices - options.dropout + 1, options.devices + 1))
    whole = set(range(1, options.sample + 1))
    updates = {
        name: rng.normal(0, 0.01, options.dimension if name in whole else 1).astype(np.float32)
        for name in range(1, options.devices + 1)
    }
    return run_round(
        updates,
        dict.fromkeys(updates, EXAMPLES),
        shares=options.neighbours + 1,
        threshold=options.threshold,
        lost={Stage.COLLECT_MASKED_VECTORS: lost},
        whole=whole,
    )


def check_exact() -> None:
    """Run a small round whole, one device lost, and make sure that its mean is right."""
    rng = np.random.default_rng(0)
    updates = {name: rng.normal(0, 0.01, EXACT_DIMENSION).astype(np.float32) for name in range(1, 11)}
    examples = {name: 10 * name for name in updates}
    lost = {Stage.COLLECT_MASKED_VECTORS: {10}}
    outcome = run_round(updates, examples, shares=5, threshold=3, lost=lost)
    alive = list(range(1, 10))
    wanted = np.average([updates[name] for name in alive], axis=0, weights=[examples[name] for name in alive])
    error = np.inf if outcome.mean is None else float(np.abs(outcome.mean - wanted).max())
    if not error < 1e-3:
        raise SystemExit(f"the round driven here does not add up: off by {error}")


def main() -> None:
    """Check the driving by an exact round of few coordinates, then measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("devices", "dimension", "neighbours", "threshold", "dropout"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sample", type=int, default=2, help="devices that mask a whole vector")
    options = parser.parse_args()
    check_exact()
    device, server, up = [], [], []
    for run in range(options.runs):
        outcome = measured(options, run + 1)
        costs = [outcome.nodes[name].cost for name in range(1, options.sample + 1)]
        device.append(median(cost.cpu_s for cost in costs))
        server.append(outcome.server_cpu_s)
        up.append(median(cost.up_bytes for cost in costs))
    version = importlib.metadata.version("flwr")
    print(
        json.dumps({"version": version, "device_cpu_s": device, "server_cpu_s": server, "upload_bytes": up})
    )


if __name__ == "__main__":
    main()
