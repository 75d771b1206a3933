"""What an operator may ask of the coordinator; the post has checked who asks."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec

from shoal_codecs.errors import ShoalError
from shoal_codecs.wire.errors import ReplayedMessageError
from shoal_codecs.wire.messages import OperatorAnswer, OperatorCommand
from shoal_codecs.wire.packing import pack
from shoal_codecs.wire.status import RoundRow
from shoal_codecs.wire.topics import Topics
from shoal_coordinator.announcer import Announcer
from shoal_coordinator.round_errors import StaleCommandError, UnknownCommandError
from shoal_coordinator.store import Store

LISTED_ROUNDS = 200
Reason = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
"""In a person's words; kept, and sent to all with each picture of the fleet."""


class RunRounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``rounds.run``: so many rounds more."""

    count: int = 1

    def __post_init__(self) -> None:
        """Refuse a count nobody means."""
        if not 1 <= self.count <= 100_000:
            raise ValueError(f"count {self.count} is outside 1..100000")


class StopRounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``rounds.stop``: open no more rounds; ``abort`` gives the one under way up, too."""

    abort: bool = False
    reason: Reason = "taken back by the operator"


class SkipVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``rounds.skip``: make the next version like the present one, which can never be trained on again."""

    reason: Reason = "skipped by the operator"


class ListRounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``rounds.list``."""


class ShowPrivacy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``privacy.show``: the fleet's budget, or one device's with every round it is charged for."""

    device: str = ""


class CreateRelease(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``release.create``: version -1 is the newest; ``canaries`` devices go first."""

    version: int = -1
    name: str = ""
    canaries: int = 1
    allow_older: bool = False


class WithdrawRelease(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``release.withdraw``."""

    release: str
    reason: Reason = "withdrawn by the operator"


Command = RunRounds | StopRounds | SkipVersion | ListRounds | ShowPrivacy | CreateRelease | WithdrawRelease
ACTIONS: dict[str, type[Command]] = {
    "rounds.run": RunRounds,
    "rounds.stop": StopRounds,
    "rounds.skip": SkipVersion,
    "rounds.list": ListRounds,
    "privacy.show": ShowPrivacy,
    "release.create": CreateRelease,
    "release.withdraw": WithdrawRelease,
}
Answer = tuple[str, dict[str, Any]]
FRESH_MS = 600_000
_KEY = "commands"


class CommandBook:
    """Which commands were taken before: a copy of one does nothing, after a restart either.

    The broker hands a command over again where the coordinator ended before it acknowledged it, and whoever
    can write to the broker may repeat one at any time.
    """

    def __init__(self, store: Store, clock_ms: Callable[[], int]) -> None:
        self._store = store
        self._clock_ms = clock_ms

    async def admit(self, message: OperatorCommand) -> None:
        """Note ``message``, durably, before anything is done about it.

        Raises:
            StaleCommandError: it was sent too long ago to be remembered, or in the future.
            ReplayedMessageError: it was taken before.
        """
        now_ms = self._clock_ms()
        if abs(now_ms - message.sent_ms) > FRESH_MS:
            raise StaleCommandError(
                f"sent {(now_ms - message.sent_ms) / 1000:.0f} s before it came: give it again, and set the "
                "clocks of operator and coordinator"
            )
        taken = await self._store.get_record(_KEY, dict[bytes, int]) or {}
        if message.message_id in taken:
            raise ReplayedMessageError("this command was carried out before: give it anew if you mean it")
        fresh = {one: sent_ms for one, sent_ms in taken.items() if now_ms - sent_ms <= FRESH_MS}
        await self._store.set_value(_KEY, pack(fresh | {message.message_id: message.sent_ms}))


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
