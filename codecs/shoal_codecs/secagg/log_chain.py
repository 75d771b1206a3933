"""The hash chain over a hub's log: its head stands for everything the hub has ever answered; pure."""

import hashlib

_LINK_LABEL = b"shoal/1 hub log\x00"
NO_HEAD = b""


def next_head(head: bytes, subject: bytes, entry: str, body: bytes) -> bytes:
    """Return the head (32 bytes) after an entry on ``subject`` (a digest); ``NO_HEAD`` begins a chain."""
    digest = hashlib.sha256(_LINK_LABEL)
    for part in (head, subject, entry.encode(), body):
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.digest()
