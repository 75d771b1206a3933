"""What an idle agent costs: memory, start-up, and bytes a minute.

python benchmarks/idle_agent.py --json benchmarks/results/idle_agent.json
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from output import Figure, write

from shoal_codecs.transport.link import Delivery, Link
from shoal_codecs.transport.settings import LinkSettings, parse_broker_url
from shoal_coordinator.config import shipped
from shoal_coordinator.demo.broker import start_broker
from shoal_coordinator.demo.partition import write_shards
from shoal_coordinator.demo.proxy import CuttableLink
from shoal_coordinator.fleet_init import init_fleet, write_settings

DEVICE = "device-01"
SETTLE_S = 3.0


def pss_mib(pid: int) -> float:
    """Return the proportional set size of a process in MiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise ValueError("no Pss in smaps_rollup: is this Linux 4.14 or newer?")


async def measure(folder: Path, minute_s: float) -> tuple[float, float, float]:
    """Return (seconds from exec to subscribed, PSS in MiB, bytes on the wire in an idle minute)."""
    broker = await start_broker(folder / "broker")
    address = parse_broker_url(broker.url)
    relay = CountingLink(address.host, address.port)
    await relay.start()
    folders = init_fleet(folder / "fleet", "bench", devices=[DEVICE], hubs=["hub-1", "hub-2"])
    write_shards(shipped("digits.npz"), [folders[DEVICE] / "examples.npz"], seed=1)
    config = folders[DEVICE] / "config.toml"
    url = f"mqtt://127.0.0.1:{relay.port}"
    write_settings(config, {"name": DEVICE, "fleet": "bench", "link": {"url": url, "username": DEVICE}})
    online = asyncio.Event()

    async def hear(_: Delivery) -> None:
        online.set()

    watcher = Link(LinkSettings(url=broker.url, username="coordinator"), "watcher")
    await watcher.subscribe(f"shoal/bench/devices/{DEVICE}/status", hear)
    watching = asyncio.create_task(watcher.run())
    await watcher.wait_connected()
    began = time.perf_counter()
    agent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shoal_edge", "run", "--config", str(config), "--stop-on-stdin-eof"),
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    await online.wait()
    started = time.perf_counter() - began
    await asyncio.sleep(SETTLE_S)
    before = relay.carried
    await asyncio.sleep(minute_s)
    idle = (relay.carried - before) * 60 / minute_s
    memory = pss_mib(agent.pid)
    agent.terminate()
    await agent.wait()
    await watcher.close()
    await watching
    await relay.cut()
    await broker.stop()
    return started, memory, idle


class CountingLink(CuttableLink):
    """A relay that counts what it carries, both ways, in bytes of TCP payload."""

    carried = 0

    def count(self, size: int) -> None:
        """Add what passed."""
        self.carried += size


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--minute", type=float, default=60.0, help="seconds to watch, scaled to a minute")
    options = parser.parse_args()
    results = []
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            results.append(asyncio.run(measure(Path(folder), options.minute)))
    started, memory, idle = zip(*results, strict=True)
    figures = [
        Figure("idle.exec_to_subscribed", [round(run, 3) for run in started], "s"),
        Figure("idle.pss", [round(run, 1) for run in memory], "MiB"),
        Figure("idle.bytes_per_minute", list(idle), "bytes"),
    ]
    write("idle_agent", {"heartbeat_s": 60, "tls": False, "watched_s": options.minute}, figures, options.json)


if __name__ == "__main__":
    main()
