"""The tables of a hub's log.

``log`` is only ever added to: it is what the hub has answered. ``keys`` and ``reports.ciphertext`` are
erased when their round has ended.
"""

VERSION = 1
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
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    plan_hash BLOB NOT NULL REFERENCES rounds (plan_hash),
    entry TEXT NOT NULL,
    body BLOB NOT NULL,
    at_ms INTEGER NOT NULL,
    UNIQUE (plan_hash, entry)
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
    nonce BLOB NOT NULL,
    sealed_private BLOB NOT NULL,
    plan_hash BLOB UNIQUE
);
"""
