"""A report opened where it was sent to: whose it is, what it is called, and the share in it."""

from dataclasses import dataclass, field

from shoal_codecs.secagg.errors import ShareLengthError
from shoal_codecs.security.identity import verify
from shoal_codecs.security.sealing import public_sealing_key, unseal
from shoal_codecs.wire.report import (
    Report,
    ciphertext_digests,
    decode_report,
    report_id,
    report_signing_bytes,
    share_context,
)


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where reports of one plan arrive.

    ``hub`` is the receiver's name, ``position`` its place (from 0) among the ``hubs`` hubs of the plan,
    ``plan_hash`` is M; ``private`` opens what is sealed to the key it offered.
    """

    plan_hash: bytes
    hub: str
    position: int
    hubs: int
    private: bytes
    public: bytes = field(init=False)

    def __post_init__(self) -> None:
        """Work out the public half once, not for every report."""
        object.__setattr__(self, "public", public_sealing_key(self.private) if self.private else b"")


@dataclass(frozen=True, slots=True)
class OpenedReport:
    """A believed report: its id, the ciphertext (a view) to keep, the share in clear never to be stored."""

    report_id: bytes
    ciphertext: memoryview
    share: bytes


def name_report(data: bytes | memoryview, device: str, receiver: Receiver) -> bytes:
    """Return the id of the report in ``data``; nothing is believed yet.

    Raises:
        MalformedMessageError: not a report to one of ``hubs`` hubs.
    """
    _, digests = _read(data, receiver)
    return report_id(receiver.plan_hash, device, digests)


def open_report(
    data: bytes | memoryview,
    device: str,
    device_key: bytes,
    receiver: Receiver,
    share_bytes: int | None = None,
) -> OpenedReport:
    """Return the report in ``data`` if ``device`` signed it for this plan and the share opens.

    ``device_key`` is the device's Ed25519 key; ``share_bytes`` the length the share must have, None
    where only the codec knows.

    Raises:
        MalformedMessageError: not a report.
        BadSignatureError: not this device's, or of another plan.
        UnsealError: sealed for another plan, device, hub or key, or changed on the way.
        ShareLengthError: the share is not ``share_bytes`` long.
    """
    report, digests = _read(data, receiver)
    verify(device_key, report_signing_bytes(receiver.plan_hash, device, digests), report.signature)
    share = open_share(report.ciphertext, device, receiver)
    if share_bytes is not None and len(share) != share_bytes:
        raise ShareLengthError(
            f"a share of {len(share)} bytes, this hub's shares of the round have {share_bytes}: "
            "encode it as the plan says"
        )
    return OpenedReport(report_id(receiver.plan_hash, device, digests), report.ciphertext, share)


def open_share(ciphertext: bytes | memoryview, device: str, receiver: Receiver) -> bytes:
    """Return the share in clear.

    Raises:
        UnsealError: sealed for another plan, device, hub or key, or changed.
    """
    context = share_context(receiver.plan_hash, device, receiver.hub)
    return unseal(receiver.private, ciphertext, context, receiver.public)


def _read(data: bytes | memoryview, receiver: Receiver) -> tuple[Report, tuple[bytes, ...]]:
    """Return the report and its digests, which read the whole ciphertext: once a report."""
    report = decode_report(data, receiver.hubs)
    return report, ciphertext_digests(report, receiver.position)
