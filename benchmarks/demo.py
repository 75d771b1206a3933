"""The README's table: ``shoal demo`` over several seeds, calm and with everything done to the fleet.

python benchmarks/demo.py --json benchmarks/results/demo.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from output import Figure, write


def run(seed: int, folder: Path, *, calm: bool) -> dict[str, Any]:
    """Run one demo and return its report, with the wall seconds of the whole process."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "shoal_coordinator", "demo", "--seed", str(seed)]
    command += ["--data-dir", str(folder / "fleet"), "--report", str(report)]
    command += ["--calm"] if calm else []
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    result: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    result["wall"] = time.perf_counter() - began
    return result


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    figures = []
    for kind, calm in (("calm", True), ("show", False)):
        reports = []
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as folder:
                reports.append(run(seed, Path(folder), calm=calm))
        rounds = [report["accuracy"]["by_round"] for report in reports]
        fp32 = reports[0]["bytes"]["fp32_per_device_round"]
        columns: list[tuple[str, str, list[float]]] = [
            ("accuracy.round_20", "fraction", [by["20"] for by in rounds]),
            ("accuracy.round_40", "fraction", [by["40"] for by in rounds]),
            ("accuracy.deployed_int8", "fraction", [r["accuracy"]["deployed"] for r in reports]),
            ("accuracy.centralised", "fraction", [r["accuracy"]["centralised"] for r in reports]),
            ("bytes.up_per_device_round", "bytes", [r["bytes"]["up_per_device_round"] for r in reports]),
            ("bytes.down_per_device_round", "bytes", [r["bytes"]["down_per_device_round"] for r in reports]),
            ("up_times_less_than_fp32", "times", [fp32 / r["bytes"]["up_per_device_round"] for r in reports]),
            (
                "down_times_less_than_fp32",
                "times",
                [fp32 / r["bytes"]["down_per_device_round"] for r in reports],
            ),
            ("seconds.per_round_median", "s", [r["seconds"]["per_round_median"] for r in reports]),
            ("seconds.wall", "s", [r["wall"] for r in reports]),
            ("devices_confirmed", "devices", [r["deployed"]["devices_confirmed"] for r in reports]),
        ]
        figures += [
            Figure(f"{kind}.{name}", [round(float(run), 4) for run in runs], unit)
            for name, unit, runs in columns
        ]
    settings = {"devices": 10, "rounds": 40, "mode": "hubs", "seeds": options.seeds}
    write("demo", settings, figures, options.json)


if __name__ == "__main__":
    main()
