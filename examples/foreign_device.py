"""A device in the fleet without a line of Shoal: plain paho-mqtt and msgpack, heartbeats only.

    pip install paho-mqtt msgpack
    python examples/foreign_device.py --host 127.0.0.1 --port 1883 --fleet demo --name pump-17

It is shown in the fleet as a guest and is never invited. What it sends is the whole contract of a heartbeat:

- topic ``shoal/{fleet}/devices/{name}/heartbeat``, QoS 0, not retained; MQTT client id
  ``shoal:{fleet}:{name}``, user name = name;
- payload: the MessagePack array ``[content, nil]``, for heartbeats go unsigned;
- content: the MessagePack array ``["hb", 1, name, message id (8 random bytes), milliseconds since the epoch,
  sequence, full, readings]``, itself packed as bytes;
- readings: a map from the numbers below to values; in a heartbeat that is not full, only those that changed.
"""

import argparse
import contextlib
import os
import platform
import time

import msgpack
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

PHASE, MEMORY_AVAILABLE, LOAD, UPTIME, BOARD, ARCHITECTURE, AGENT = 0, 8, 11, 15, 18, 19, 21
FULL_EVERY = 10


def heartbeat(name: str, sequence: int, readings: dict[int, object], *, full: bool) -> bytes:
    """Return the payload of one heartbeat."""
    content = ["hb", 1, name, os.urandom(8), int(time.time() * 1000), sequence, full, readings]
    payload: bytes = msgpack.packb([msgpack.packb(content), None])
    return payload


def read(started: float) -> dict[int, object]:
    """Return what this device knows of itself; a reading it does not have is left out."""
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        PHASE: "idle",
        MEMORY_AVAILABLE: pages >> 20,
        LOAD: int(os.getloadavg()[0] * 100),
        UPTIME: int(time.monotonic() - started),
        BOARD: "a device of another make",
        ARCHITECTURE: platform.machine(),
        AGENT: "foreign-1",
    }


def send(client: mqtt.Client, options: argparse.Namespace) -> None:
    """Send heartbeats for ever, or as many as asked for."""
    topic = f"shoal/{options.fleet}/devices/{options.name}/heartbeat"
    started, sequence = time.monotonic(), 0
    last: dict[int, object] = {}
    while not options.count or sequence < options.count:
        now = read(started)
        full = sequence % FULL_EVERY == 0
        news = now if full else {key: value for key, value in now.items() if last.get(key) != value}
        sequence, last = sequence + 1, now
        sent = client.publish(topic, heartbeat(options.name, sequence, news, full=full), qos=0)
        sent.wait_for_publish(10)
        if sequence != options.count:
            time.sleep(options.seconds)


def main() -> None:
    """Connect as a device, send heartbeats until stopped, and say goodbye to the broker."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--fleet", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--seconds", type=float, default=30.0, help="between two heartbeats")
    parser.add_argument("--count", type=int, default=0, help="how many, 0 for ever")
    options = parser.parse_args()

    client_id = f"shoal:{options.fleet}:{options.name}"
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id)
    client.username_pw_set(options.name)
    client.connect(options.host, options.port)
    client.loop_start()
    # Ctrl-C is how a person ends it.
    with contextlib.suppress(KeyboardInterrupt):
        send(client, options)
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    main()
