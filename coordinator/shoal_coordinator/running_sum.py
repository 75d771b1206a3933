"""The sum of a round's shares as it grows, in memory only: what is opened on arrival is not opened again.

For shares that are whole vectors: those in full at a hub, and the masked vectors of mode ``single``; seeds
are expanded once anyway. Which reports are in it is known, so that at the end those that are missing are
added from the disk and those that do not belong are taken out: modulo 2^w both are exact. Imports numpy.
"""

import threading
from collections.abc import Callable, Iterable

from shoal_codecs.secagg.packed_sum import PackedSum
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.wire.plan import Plan

# A report opened for the sum costs about as much as two that are taken out.
_OUT_COST = 2
Share = Callable[[str], bytes]
"""Returns a device's share in clear, opened from the disk."""


class RunningSum:
    """One round's; safe to use from several threads."""

    def __init__(self, plan: Plan) -> None:
        spec = ring_spec(plan)
        self._sum = PackedSum(spec.words, spec.ring_bits)
        self._devices: set[str] = set()
        self._lock = threading.Lock()
        self._usable = True

    @property
    def nbytes(self) -> int:
        """Memory that the sum takes."""
        return self._sum.nbytes

    def add(self, device: str, share: bytes) -> None:
        """Add the share of a report that is durable now; once a device.

        Raises:
            ShareLengthError, PayloadContentError: a share that cannot be added; the sum is what it was.
        """
        with self._lock:
            if self._usable and device not in self._devices:
                self._change(self._sum.add, device, share)

    def wanted(self, members: Iterable[str]) -> list[str] | None:
        """Return whose shares are needed for the sum over ``members``; None: everybody's, from the start."""
        with self._lock:
            chosen = set(members)
            missing, foreign = chosen - self._devices, self._devices - chosen
            if not self._usable or len(missing) + _OUT_COST * len(foreign) >= len(chosen):
                return None
            return sorted(missing | foreign)

    def total(self, members: Iterable[str], share: Share) -> bytes:
        """Return the packed sum over ``members``; ``share`` is asked for those that were ``wanted``."""
        with self._lock:
            chosen = set(members)
            for device in sorted(chosen - self._devices):
                self._change(self._sum.add, device, share(device))
            for device in sorted(self._devices - chosen):
                self._change(self._sum.subtract, device, share(device))
            return self._sum.packed()

    def erase(self) -> None:
        """Overwrite the sum; it takes nothing any more."""
        with self._lock:
            self._usable = False
            self._devices.clear()
            self._sum.erase()

    def _change(self, change: Callable[[bytes], None], device: str, share: bytes) -> None:
        change(share)
        self._devices ^= {device}
