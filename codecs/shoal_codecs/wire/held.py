"""Which roster a party goes by, as hubs and devices say it beside their presence."""

import msgspec

MARK_BYTES = 8


class HeldRoster(msgspec.Struct, frozen=True, array_like=True):
    """The serial of a party's roster, and the first 8 bytes of its digest."""

    serial: int
    mark: bytes


def other_roster(theirs: HeldRoster | None, ours: HeldRoster) -> str:
    """Return in words which roster a party goes by, nothing where it is ours, or was not said."""
    if theirs is None or theirs == ours:
        return ""
    return f"{'another ' if theirs.serial == ours.serial else ''}roster {theirs.serial}"
