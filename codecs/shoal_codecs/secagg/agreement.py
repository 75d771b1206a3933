"""What hubs agree on: one set of reports, named by a digest that binds the sums to it."""

import hashlib
from collections.abc import Iterable, Mapping

from shoal_codecs.wire.packing import prefixed

_SET_LABEL = b"shoal/1 report set\x00"
_SUM_LABEL = b"shoal/1 sum\x00"


def common_reports(own: Mapping[str, bytes], others: Iterable[Mapping[str, bytes]]) -> dict[str, bytes]:
    """Return the reports (device to report id) that every hub holds under the same id, by name."""
    sets = tuple(others)
    return {
        device: own[device] for device in sorted(own) if all(held.get(device) == own[device] for held in sets)
    }


def set_digest(reports: Mapping[str, bytes]) -> bytes:
    """Return the 32-byte digest of a set of reports: a label, then each name, length first, and its id."""
    digest = hashlib.sha256(_SET_LABEL)
    for device in sorted(reports):
        digest.update(prefixed(device) + reports[device])
    return digest.digest()


def sum_context(plan_hash: bytes, digest: bytes, hub: str) -> bytes:
    """Return the associated data under which ``hub`` seals its sum over the set ``digest``."""
    return _SUM_LABEL + plan_hash + digest + hub.encode()
