"""The tables of a hub's log.

``log`` is only ever added to: it is what the hub has answered, each entry chained to the one before it.
``subject`` is the hash of a plan or the digest of a set of promises. ``keys`` and ``reports.ciphertext`` are
erased when their round has ended; a key without a set is promised, one with a set and no plan is shown.
``peers`` holds the newest log head of each peer.
"""

VERSION = 2
"""1 had no chain over the log, and no promises."""
TABLES = """
CREATE TABLE rounds (
    plan_hash BLOB PRIMARY KEY,
    round INTEGER NOT NULL UNIQUE,
    task BLOB NOT NULL,
    base BLOB NOT NULL,
    plan BLOB NOT NULL,
    signature BLOB NOT NULL
);
CREATE INDEX rounds_base ON rounds (task, base);
CREATE TABLE log (
    position INTEGER PRIMARY KEY,
    subject BLOB NOT NULL,
    entry TEXT NOT NULL,
    body BLOB NOT NULL,
    at_ms INTEGER NOT NULL,
    head BLOB NOT NULL,
    UNIQUE (subject, entry)
);
CREATE TABLE reports (
    plan_hash BLOB NOT NULL REFERENCES rounds (plan_hash),
    device TEXT NOT NULL,
    report_id BLOB NOT NULL,
    ciphertext BLOB,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (plan_hash, device)
);
CREATE TABLE keys (
    key BLOB PRIMARY KEY,
    sealed_secrets BLOB NOT NULL,
    set_digest BLOB UNIQUE,
    task BLOB,
    base BLOB,
    plan_hash BLOB UNIQUE
);
CREATE TABLE peers (
    hub TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    head BLOB NOT NULL
);
"""
