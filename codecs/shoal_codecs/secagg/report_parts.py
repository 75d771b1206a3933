"""Reports put together again from their parts, within limits; no I/O.

Parts carry no signature of their own: whoever may write on a device's topic can send one. So nothing here
lasts: a contradiction throws away what was gathered, and the device's next repetition begins anew.
"""

from dataclasses import dataclass

from shoal_codecs.secagg.hub_errors import (
    PartBudgetError,
    PartConflictError,
    PartCountError,
    PartIndexError,
    PartSizeError,
)
from shoal_codecs.security.sealing import OVERHEAD_BYTES

SMALLEST_PART_BYTES = 1024
GATHERED_BYTES = 256 * 1024 * 1024
_DIGEST_BYTES = 34
_SIGNATURE_AND_FRAMING_BYTES = 66 + 16


def largest_report_bytes(share_bytes: int, hubs: int) -> int:
    """Return how long an encoded report can be whose share in clear has ``share_bytes``."""
    return share_bytes + OVERHEAD_BYTES + (hubs - 1) * _DIGEST_BYTES + _SIGNATURE_AND_FRAMING_BYTES


@dataclass(slots=True)
class _Gathered:
    count: int
    parts: dict[int, bytes | memoryview]
    size: int = 0


class ReportAssembler:
    """The unfinished reports of one round.

    ``report_bytes`` is the longest report of the round, ``gathered_bytes`` what all unfinished reports
    together may take. A report comes in at most one part per KiB, and in one part at least.
    """

    def __init__(self, report_bytes: int, gathered_bytes: int = GATHERED_BYTES) -> None:
        self.report_bytes = report_bytes
        self.most_parts = -(-report_bytes // SMALLEST_PART_BYTES)
        self._budget = gathered_bytes
        self._held = 0
        self._gathered: dict[str, _Gathered] = {}

    def add(self, device: str, index: int, count: int, data: bytes | memoryview) -> bytes | memoryview | None:
        """Take part ``index`` of ``count``; return the whole report when it is complete, else None.

        A part that is there already changes nothing. A complete report is handed over and forgotten.

        Raises:
            PartCountError: no parts at all, or more than a report of this round can have.
            PartIndexError: ``index`` is outside ``count``.
            PartSizeError: an empty part, or more bytes than a report of this round can have.
            PartConflictError: it contradicts an earlier part; all of this device's are forgotten.
            PartBudgetError: the memory for unfinished reports is full.
        """
        self._check(index, count, data)
        if count == 1:
            self.forget(device)
            return data
        gathered = self._gathered.get(device) or _Gathered(count, {})
        known = gathered.parts.get(index)
        if known == data and gathered.count == count:
            return None
        if known is not None or gathered.count != count:
            self.forget(device)
            raise PartConflictError(
                f"part {index} contradicts what {device!r} sent before: send all parts again"
            )
        self._check_room(device, gathered, data)
        gathered.parts[index] = _kept(data)
        gathered.size += len(data)
        self._held += len(data)
        self._gathered[device] = gathered
        if len(gathered.parts) < count:
            return None
        self.forget(device)
        return b"".join(gathered.parts[position] for position in range(count))

    def credit(self, device: str) -> int:
        """Return how many parts from the first on are here without a gap."""
        gathered = self._gathered.get(device)
        if gathered is None:
            return 0
        return next(index for index in range(gathered.count) if index not in gathered.parts)

    def forget(self, device: str) -> None:
        """Throw away what was gathered of this device's report."""
        gathered = self._gathered.pop(device, None)
        if gathered is not None:
            self._held -= gathered.size

    def _check(self, index: int, count: int, data: bytes | memoryview) -> None:
        if not 1 <= count <= self.most_parts:
            raise PartCountError(
                f"{count} parts, a report of this round has 1 to {self.most_parts}: send larger parts"
            )
        if not 0 <= index < count:
            raise PartIndexError(f"part {index} of {count} does not exist: count from 0")
        if not 0 < len(data) <= self.report_bytes:
            raise PartSizeError(
                f"a part of {len(data)} bytes, a report of this round has at most {self.report_bytes}: "
                "encode it as the plan says"
            )

    def _check_room(self, device: str, gathered: _Gathered, data: bytes | memoryview) -> None:
        if gathered.size + len(data) > self.report_bytes:
            self.forget(device)
            raise PartSizeError(
                f"the parts of {device!r} add up to more than the {self.report_bytes} bytes of a report: "
                "encode it as the plan says"
            )
        if self._held + len(data) > self._budget:
            raise PartBudgetError(
                f"unfinished reports fill the {self._budget} bytes set aside for them: send it again later"
            )


def _kept(data: bytes | memoryview) -> bytes | memoryview:
    """Return ``data`` itself, or a copy where it is a small part of the frame that its view keeps."""
    if isinstance(data, memoryview) and 2 * data.nbytes < memoryview(data.obj).nbytes:
        return bytes(data)
    return data
