"""The median of the losses that devices found for each version: what later ones are held against."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the column; of versions that are there already it is not known."""
    with op.batch_alter_table("versions") as versions:
        versions.add_column(sa.Column("median_loss", sa.Float(), nullable=True))


def downgrade() -> None:
    """Drop it again."""
    with op.batch_alter_table("versions") as versions:
        versions.drop_column("median_loss")
