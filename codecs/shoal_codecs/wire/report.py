"""A device's report to one hub: the sealed share, bound to every other share of the same update."""

import msgspec

from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.errors import MalformedMessageError
from shoal_codecs.wire.packing import TypedDecoder, pack, prefixed
from shoal_codecs.wire.sha256 import sha256

SHARE_SEED_BYTES = 1 + 32
"""Of a share in clear at each hub but the one that gets it in full: a cipher's number, then random bytes."""
_SIGN_LABEL = b"shoal/1 report\x00"
_ID_LABEL = b"shoal/1 report id\x00"
_SEAL_LABEL = b"shoal/1 share\x00"


class Report(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One share, sealed to its hub.

    ``others`` are the BLAKE3 digests of the ciphertexts meant for the other hubs, in plan order; the
    signature is the device's over all of them and the plan's hash, so one serves every hub. The ciphertext is
    a view of the report it was decoded from.
    """

    ciphertext: memoryview
    others: tuple[bytes, ...]
    signature: bytes


_REPORTS = TypedDecoder(Report)


def ciphertext_digests(report: Report, position: int) -> tuple[bytes, ...]:
    """Return the digests of all ciphertexts in plan order, for the hub at ``position`` (from 0)."""
    return (*report.others[:position], digest_of(report.ciphertext), *report.others[position:])


def report_id(plan_hash: bytes, device: str, digests: tuple[bytes, ...]) -> bytes:
    """Return the 32-byte id of a report; over ciphertexts, so that no hub can guess at values."""
    return sha256(_ID_LABEL + _bound(plan_hash, device) + b"".join(digests))


def report_signing_bytes(plan_hash: bytes, device: str, digests: tuple[bytes, ...]) -> bytes:
    """Return what the device signs for its report."""
    return _SIGN_LABEL + report_id(plan_hash, device, digests)


def share_context(plan_hash: bytes, device: str, hub: str) -> bytes:
    """Return the associated data under which a share is sealed."""
    return _SEAL_LABEL + _bound(plan_hash, device) + prefixed(hub)


def encode_report(report: Report) -> bytes:
    """Return the report as bytes."""
    return pack(report)


def decode_report(data: bytes | memoryview, hubs: int) -> Report:
    """Return the report in ``data``.

    Raises:
        MalformedMessageError: not a report for a round with ``hubs`` hubs.
    """
    try:
        report = _REPORTS.decode(data)
    except msgspec.ValidationError as error:
        raise MalformedMessageError(f"not a report ({error}): update the device") from error
    if len(report.others) != hubs - 1 or any(len(digest) != 32 for digest in report.others):
        raise MalformedMessageError(
            f"a report with {len(report.others)} other digests does not fit a plan of {hubs} hubs: "
            "make it from the plan of its round"
        )
    return report


def _bound(plan_hash: bytes, device: str) -> bytes:
    return plan_hash + prefixed(device)
