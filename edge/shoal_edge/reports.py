"""A device's report: signed over all its ciphertexts, cut into parts for each hub."""

from collections.abc import Sequence

from shoal_codecs.security.identity import Identity
from shoal_codecs.security.post import Post
from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.messages import ReportPart
from shoal_codecs.wire.plan import Plan
from shoal_codecs.wire.report import Report, encode_report, report_id, report_signing_bytes
from shoal_edge.round_events import SealedReport

PART_BYTES = 64 * 1024
LONG_REPORT_BYTES = 1 << 20
LONG_PART_BYTES = 256 * 1024
"""Of a long report: every part costs some 60 bytes and a hub's time."""


def sign_report(
    identity: Identity, plan: Plan, plan_hash: bytes, ciphertexts: Sequence[bytes | memoryview]
) -> SealedReport:
    """Return the report of ``ciphertexts`` (one per hub, in plan order), signed once for all hubs."""
    digests = tuple(map(digest_of, ciphertexts))
    signature = identity.sign(report_signing_bytes(plan_hash, identity.name, digests))
    parts = {}
    for position, (hub, ciphertext) in enumerate(zip(plan.hubs, ciphertexts, strict=True)):
        others = (*digests[:position], *digests[position + 1 :])
        parts[hub.hub] = encode_report(Report(memoryview(ciphertext), others, signature))
    return SealedReport(report_id(plan_hash, identity.name, digests), parts)


def report_messages(post: Post, number: int, data: bytes) -> list[ReportPart]:
    """Return the encoded report ``data`` of round ``number`` as messages with fresh ids."""
    size = PART_BYTES if len(data) <= LONG_REPORT_BYTES else LONG_PART_BYTES
    whole = memoryview(data)
    pieces = [whole[start : start + size] for start in range(0, len(data), size)]
    return [
        post.compose(ReportPart, round=number, index=index, count=len(pieces), data=piece)
        for index, piece in enumerate(pieces)
    ]
