"""What an operator may ask of the coordinator; the post has checked who asks."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from shoal_codecs.errors import ShoalError
from shoal_codecs.wire.messages import OperatorAnswer, OperatorCommand
from shoal_codecs.wire.status import RoundRow
from shoal_codecs.wire.topics import Topics
from shoal_coordinator.announcer import Announcer
from shoal_coordinator.round_errors import UnknownCommandError

LISTED_ROUNDS = 200


class RunRounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``rounds.run``: so many rounds more."""

    count: int = 1

    def __post_init__(self) -> None:
        """Refuse a count nobody means."""
        if not 1 <= self.count <= 100_000:
            raise ValueError(f"count {self.count} is outside 1..100000")


class ListRounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``rounds.list``."""


class CreateRelease(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``release.create``: version -1 is the newest; ``canaries`` devices go first."""

    version: int = -1
    name: str = ""
    canaries: int = 1
    allow_older: bool = False


class WithdrawRelease(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``release.withdraw``."""

    release: str
    reason: str = "withdrawn by the operator"


Command = RunRounds | ListRounds | CreateRelease | WithdrawRelease
ACTIONS: dict[str, type[Command]] = {
    "rounds.run": RunRounds,
    "rounds.list": ListRounds,
    "release.create": CreateRelease,
    "release.withdraw": WithdrawRelease,
}
Answer = tuple[str, dict[str, Any]]


def read_command(message: OperatorCommand) -> Command:
    """Return the typed command.

    Raises:
        UnknownCommandError: an unknown action, or arguments it does not take.
    """
    kind = ACTIONS.get(message.action)
    if kind is None:
        known = ", ".join(sorted(ACTIONS))
        raise UnknownCommandError(f"{message.action[:64]!r} is no command; known: {known}")
    try:
        return msgspec.convert(message.arguments, kind)
    except (msgspec.ValidationError, ValueError) as error:
        raise UnknownCommandError(f"{message.action}: {error}") from error


def round_fields(rows: tuple[RoundRow, ...]) -> dict[str, Any]:
    """Return the newest rounds as the fields of an answer."""
    return {"rounds": [msgspec.to_builtins(row) for row in rows[-LISTED_ROUNDS:]]}


async def answer_command(
    message: OperatorCommand,
    perform: Callable[[Command], Awaitable[Answer]],
    announcer: Announcer,
    topics: Topics,
) -> None:
    """Do what the operator asks and say what came of it, also where it is refused."""
    fields: dict[str, Any]
    try:
        text, fields = await perform(read_command(message))
        accepted = True
    except ShoalError as error:
        text, fields, accepted = str(error), {"error": type(error).__name__}, False
    announcer.say(
        topics.coordinator("events"),
        OperatorAnswer,
        command_id=message.message_id,
        accepted=accepted,
        text=text,
        fields=fields,
    )
