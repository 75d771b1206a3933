"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _text(name: str) -> "sa.Column[str]":
    return sa.Column(name, sa.String(), nullable=False)


def _int(name: str) -> "sa.Column[int]":
    return sa.Column(name, sa.Integer(), nullable=False)


def _blob(name: str) -> "sa.Column[bytes]":
    return sa.Column(name, sa.LargeBinary(), nullable=False)


def _float(name: str) -> "sa.Column[float]":
    return sa.Column(name, sa.Float(), nullable=False)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "versions",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        *(_blob("digest"), _blob("parent"), _int("round"), _blob("task"), _blob("whole"), _blob("step")),
        *(_int("devices"), _int("examples"), _float("accuracy"), _float("loss"), _int("created_ms")),
        sa.PrimaryKeyConstraint("number", name="pk_versions"),
    )
    op.create_table(
        "rounds",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        *(_text("state"), sa.Column("finished", sa.Boolean(), nullable=False), _blob("plan")),
        *(_blob("plan_hash"), _int("opened_ms"), _blob("snapshot"), _blob("row")),
        sa.PrimaryKeyConstraint("number", name="pk_rounds"),
    )
    op.create_index("ix_rounds_finished", "rounds", ["finished"])
    op.create_table(
        "releases",
        *(_text("release"), _int("version"), _text("state"), _blob("manifest"), _blob("signature")),
        *(_text("canaries"), _int("created_ms"), _int("changed_ms"), _text("reason")),
        sa.PrimaryKeyConstraint("release", name="pk_releases"),
    )
    op.create_table(
        "release_devices",
        *(_text("release"), _text("device"), _text("state"), _text("reason")),
        *(_int("candidate_examples"), _int("candidate_correct")),
        *(_int("replaced_examples"), _int("replaced_correct"), _int("changed_ms")),
        sa.ForeignKeyConstraint(["release"], ["releases.release"], name="fk_release_devices_release"),
        sa.PrimaryKeyConstraint("release", "device", name="pk_release_devices"),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False),
        *(_int("at_ms"), _text("kind"), _text("text"), _blob("fields")),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_no_{verb.lower()} BEFORE {verb} ON audit "
            "BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END"
        )
    op.create_table(
        "meta",
        *(_text("key"), _blob("content")),
        sa.PrimaryKeyConstraint("key", name="pk_meta"),
    )


def downgrade() -> None:
    """Drop them again."""
    for table in ("meta", "audit", "release_devices", "releases", "rounds", "versions"):
        op.drop_table(table)
