"""The tables, as the newest migration leaves them; a test holds the two against each other."""

from sqlalchemy import ForeignKey, MetaData
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_NAMES = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "ix": "ix_%(column_0_label)s",
}


class Table(DeclarativeBase):
    """The base of every table."""

    metadata = MetaData(naming_convention=_NAMES)


class Version(Table):
    """Model versions."""

    __tablename__ = "versions"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    digest: Mapped[bytes]
    parent: Mapped[bytes]
    round: Mapped[int]
    task: Mapped[bytes]
    whole: Mapped[bytes]
    step: Mapped[bytes]
    devices: Mapped[int]
    examples: Mapped[int]
    accuracy: Mapped[float]
    loss: Mapped[float]
    created_ms: Mapped[int]
    epsilon: Mapped[float | None]
    task_epsilon: Mapped[float | None]
    delta: Mapped[float]
    state: Mapped[bytes]
    update_norm: Mapped[float]
    median_loss: Mapped[float | None]


class PrivatePlan(Table):
    """Plans with noise that devices were invited to, and what each costs a device."""

    __tablename__ = "private_plans"
    plan_hash: Mapped[bytes] = mapped_column(primary_key=True)
    task: Mapped[bytes]
    round: Mapped[int]
    mechanism: Mapped[str]
    noise: Mapped[float]
    charge: Mapped[bytes]
    at_ms: Mapped[int]


class Participation(Table):
    """How each device stands to each of those plans."""

    __tablename__ = "participations"
    plan_hash: Mapped[bytes] = mapped_column(ForeignKey("private_plans.plan_hash"), primary_key=True)
    device: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]


class Round(Table):
    """Rounds, finished or not; ``row`` is the packed ``RoundRow`` of a finished one."""

    __tablename__ = "rounds"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str]
    finished: Mapped[bool] = mapped_column(index=True)
    plan: Mapped[bytes]
    plan_hash: Mapped[bytes]
    opened_ms: Mapped[int]
    snapshot: Mapped[bytes]
    row: Mapped[bytes]


class Release(Table):
    """Releases."""

    __tablename__ = "releases"
    release: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int]
    state: Mapped[str]
    manifest: Mapped[bytes]
    signature: Mapped[bytes]
    canaries: Mapped[str]
    created_ms: Mapped[int]
    changed_ms: Mapped[int]
    reason: Mapped[str]


class ReleaseDevice(Table):
    """Where each device stands with each release."""

    __tablename__ = "release_devices"
    release: Mapped[str] = mapped_column(ForeignKey("releases.release"), primary_key=True)
    device: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    reason: Mapped[str]
    candidate_examples: Mapped[int]
    candidate_correct: Mapped[int]
    replaced_examples: Mapped[int]
    replaced_correct: Mapped[int]
    changed_ms: Mapped[int]


class Audit(Table):
    """What happened, in order; rows are only ever added."""

    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(primary_key=True)
    at_ms: Mapped[int]
    kind: Mapped[str]
    text: Mapped[str]
    fields: Mapped[bytes]


class Value(Table):
    """Small values by name: the boot id, the round counter, the target."""

    __tablename__ = "meta"
    key: Mapped[str] = mapped_column(primary_key=True)
    content: Mapped[bytes]
