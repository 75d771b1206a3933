"""What an algorithm remembers beside each version, and how long the update to it was."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the columns; versions that are there already have no state."""
    with op.batch_alter_table("versions") as versions:
        versions.add_column(
            sa.Column("state", sa.LargeBinary(), nullable=False, server_default=sa.text("x''"))
        )
        versions.add_column(sa.Column("update_norm", sa.Float(), nullable=False, server_default="0"))
    with op.batch_alter_table("versions") as versions:
        versions.alter_column("state", server_default=None)
        versions.alter_column("update_norm", server_default=None)


def downgrade() -> None:
    """Drop them again; the files of the states stay."""
    with op.batch_alter_table("versions") as versions:
        versions.drop_column("update_norm")
        versions.drop_column("state")
