"""What devices have spent of their privacy budgets, and what each version has cost."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables and columns, and let go of steps between versions."""
    # They were steps themselves, in a form nobody reads any more, and are names of blobs now.
    op.execute(sa.text("UPDATE versions SET step = x''"))
    with op.batch_alter_table("versions") as versions:
        versions.add_column(sa.Column("epsilon", sa.Float(), nullable=True))
        versions.add_column(sa.Column("task_epsilon", sa.Float(), nullable=True))
        # Versions that are there already were made without noise.
        versions.add_column(sa.Column("delta", sa.Float(), nullable=False, server_default="0"))
    with op.batch_alter_table("versions") as versions:
        versions.alter_column("delta", server_default=None)
    op.create_table(
        "private_plans",
        sa.Column("plan_hash", sa.LargeBinary(), nullable=False),
        sa.Column("task", sa.LargeBinary(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("mechanism", sa.String(), nullable=False),
        sa.Column("noise", sa.Float(), nullable=False),
        sa.Column("charge", sa.LargeBinary(), nullable=False),
        sa.Column("at_ms", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("plan_hash", name="pk_private_plans"),
    )
    op.create_table(
        "participations",
        sa.Column("plan_hash", sa.LargeBinary(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["plan_hash"], ["private_plans.plan_hash"], name="fk_participations_plan_hash"
        ),
        sa.PrimaryKeyConstraint("plan_hash", "device", name="pk_participations"),
    )


def downgrade() -> None:
    """Drop them again."""
    op.execute(sa.text("UPDATE versions SET step = x''"))
    op.drop_table("participations")
    op.drop_table("private_plans")
    with op.batch_alter_table("versions") as versions:
        for column in ("delta", "task_epsilon", "epsilon"):
            versions.drop_column(column)
