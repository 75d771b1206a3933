from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from shoal_codecs.wire.errors import ReplayedMessageError
from shoal_codecs.wire.messages import OperatorCommand
from shoal_coordinator.commands import FRESH_MS, CommandBook, read_command
from shoal_coordinator.round_errors import StaleCommandError, UnknownCommandError
from shoal_coordinator.store import Store
from wire_parts import NOW_MS


def command(number: int, sent_ms: int) -> OperatorCommand:
    return OperatorCommand(
        protocol=1, sender="operator", message_id=bytes([number]) * 8, sent_ms=sent_ms, action="rounds.run"
    )


async def test_a_command_is_taken_once_over_restarts_and_as_long_as_it_is_fresh(tmp_path: Path) -> None:
    now_ms = NOW_MS
    for start in range(3):
        store = await Store.open(tmp_path)
        book = CommandBook(store, lambda: now_ms)
        for number in range(3 * start):
            with pytest.raises(ReplayedMessageError):
                await book.admit(command(number, NOW_MS))
        for number in range(3 * start, 3 * start + 3):
            await book.admit(command(number, NOW_MS))
        await store.close()
    store = await Store.open(tmp_path)
    book = CommandBook(store, lambda: now_ms)
    for sent_ms in (NOW_MS - FRESH_MS - 1, NOW_MS + FRESH_MS + 1):
        with pytest.raises(StaleCommandError, match="clocks"):
            await book.admit(command(90, sent_ms))
    # What is forgotten is too old to be taken again.
    now_ms += FRESH_MS + 1
    await book.admit(command(91, now_ms))
    with pytest.raises(StaleCommandError):
        await book.admit(command(0, NOW_MS))
    assert len(await store.get_value("commands") or b"") < 40
    await store.close()


@pytest.mark.parametrize("action", ["rounds.stop", "rounds.skip", "release.withdraw"])
def test_a_reason_is_a_sentence_and_no_text(action: str) -> None:
    """It stands in every picture of the fleet, which all its links carry."""
    of = {"release": "r"} if action == "release.withdraw" else {}
    message = replace(command(1, NOW_MS), action=action, arguments=of | {"reason": "a" * 200})
    assert msgspec.to_builtins(read_command(message))["reason"] == "a" * 200
    for reason in ("", "a" * 201):
        with pytest.raises(UnknownCommandError, match=rf"{action}: .*\$.reason"):
            read_command(replace(message, arguments=of | {"reason": reason}))
