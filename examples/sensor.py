"""A sensor's process: appends a window a moment to a rolling buffer; somebody labels them later.

    python examples/sensor.py device/buffer --windows 500 --pause 0.1

The agent beside it trains on what is labelled, at whatever moment a round comes. This process needs neither
numpy nor the agent; the "sensor" here is a wheel whose shaking shows what is wrong with it.
"""

import argparse
import math
import random
import time
from array import array
from collections import deque

from shoal_edge.buffer import Buffer, UnknownExampleError, open_buffer

STEPS, AXES = 8, 8
"""A window is 8 steps of 8 sensors, each a byte from 0 to 16."""
STATES = 10
LABELLED_AFTER = 3


def measure(state: int) -> "array[int]":
    """Return the bytes of one window of a wheel in ``state`` (0 to 9)."""
    rhythm = 1 + state
    return array(
        "B",
        [
            min(16, max(0, round(8 + 6 * math.sin(step * rhythm + axis * state) + random.gauss(0, 0.5))))
            for step in range(STEPS)
            for axis in range(AXES)
        ],
    )


def run(buffer: Buffer, windows: int, pause: float) -> None:
    """Append ``windows`` windows, and label each when three more have come."""
    waiting: deque[tuple[int, int]] = deque()
    for _ in range(windows):
        state = random.randrange(STATES)
        waiting.append((buffer.append(measure(state)), state))
        if len(waiting) > LABELLED_AFTER:
            number, found = waiting.popleft()
            try:
                buffer.label(number, found)
            except UnknownExampleError:
                # It had to make room already: the buffer is too small for labels that come so late.
                print(f"window {number} went before its label came")
        time.sleep(pause)


def main() -> None:
    """Fill the buffer that the command line names."""
    parser = argparse.ArgumentParser(description="Append windows to a rolling buffer, and label them later.")
    parser.add_argument("folder")
    parser.add_argument("--windows", type=int, default=500)
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between two windows")
    parser.add_argument("--capacity", type=int, default=400, help="windows that the buffer holds")
    options = parser.parse_args()
    with open_buffer(
        options.folder, shape=(STEPS * AXES,), dtype="uint8", capacity_examples=options.capacity
    ) as buffer:
        run(buffer, options.windows, options.pause)


if __name__ == "__main__":
    main()
