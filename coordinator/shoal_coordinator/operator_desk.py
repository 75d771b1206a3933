"""What operators ask of the coordinator, and what comes of it."""

import contextlib
from collections.abc import Callable

from shoal_codecs.wire import messages as wire
from shoal_coordinator import round_steps as on
from shoal_coordinator.commands import (
    Answer,
    Command,
    CreateRelease,
    ListRounds,
    RunRounds,
    ShowPrivacy,
    SkipVersion,
    StopRounds,
    WithdrawRelease,
    answer_command,
    round_fields,
)
from shoal_coordinator.organs import Organs
from shoal_coordinator.round_errors import NothingToSkipError, ReleasesUnavailableError
from shoal_coordinator.round_parts import Outcome
from shoal_coordinator.round_runner import RoundRunner
from shoal_coordinator.skipping import VersionSkipper

SLOW_COMMANDS = frozenset({"privacy.show"})
PAST_ABORT = frozenset({on.RoundState.SUMMING, on.RoundState.AGGREGATING, on.RoundState.EVALUATING})
"""Where a hub may have released its sum, or devices may have opened masks: given up now, the base is lost."""


class OperatorDesk:
    """Carries out operators' commands; ``look`` has the coordinator see whether a round is due."""

    def __init__(self, organs: Organs, runner: RoundRunner, look: Callable[[], None]) -> None:
        self._organs = organs
        self._runner = runner
        self._skipper = VersionSkipper(organs)
        self._look = look

    async def hear(self, message: wire.OperatorCommand) -> None:
        """Do what a command asks, once, and answer it."""
        organs = self._organs

        async def perform(command: Command) -> Answer:
            await organs.commands.admit(message)
            return await self._perform(command)

        async def answer() -> None:
            await answer_command(message, perform, organs.announcer, organs.post.topics)

        if message.action in SLOW_COMMANDS:
            # A second accountant takes its time, and rounds do not wait for it.
            organs.announcer.spawn(answer)
        else:
            await answer()

    async def _perform(self, command: Command) -> Answer:
        organs = self._organs
        newest = organs.models.newest.number
        match command:
            case RunRounds(count=count):
                organs.privacy.refuse_rounds(self._rounds_wanted(count))
                # A round under way is one of those that were asked for, also where the rest was taken back.
                target = organs.schedule.run_more(count, newest + self._is_under_way())
                await organs.ledger.save_target(target)
                self._look()
                return f"rounds until version {target}", {"target": target, "version": newest}
            case StopRounds(abort=abort, reason=reason):
                return await self._stop(reason, abort=abort)
            case SkipVersion(reason=reason):
                return await self._skip(reason)
            case ListRounds():
                return f"{len(organs.ledger.rows)} rounds", round_fields(tuple(organs.ledger.rows))
            case ShowPrivacy(device=device):
                return await organs.privacy.show(device, organs.fleet.registry.views())
        if organs.releases is None:
            raise ReleasesUnavailableError("this coordinator makes no releases: it has no publisher key")
        match command:
            case CreateRelease(version=version, name=name, canaries=canaries, allow_older=allow_older):
                chosen = newest if version < 0 else version
                release = await organs.releases.create(chosen, name, canaries, allow_older=allow_older)
                return f"release {release} of version {chosen}", {"release": release, "version": chosen}
            case WithdrawRelease(release=release, reason=reason):
                await organs.releases.withdraw(release, reason)
                return f"release {release} withdrawn", {"release": release}

    async def _stop(self, reason: str, *, abort: bool) -> Answer:
        """Open no more rounds; one under way is the last, and is given up where that is wanted and safe."""
        organs, machine = self._organs, self._runner.machine
        newest = organs.models.newest.number
        left = max(0, organs.schedule.target - newest - (machine is not None))
        # First, for where the rest goes wrong no other round begins all the same.
        organs.schedule.stop(newest)
        await organs.ledger.take_back(newest, reason)
        text = f"{left} {'round' if left == 1 else 'rounds'} taken back"
        number = machine.facts.plan.round if machine is not None else 0
        given_up = False
        if machine is None:
            text += f", version {newest} is the last"
        elif not abort:
            text += f"; round {number} is under way and the last: it ends by itself"
        elif machine.state in PAST_ABORT:
            text += f"; round {number} is about to make a version and is not given up: it is the last"
        else:
            given_up = True
            text += f"; round {number} is given up"
            if machine.facts.hubs:
                text += ", unless every hub has agreed to its sum already"
            await self._runner.feed(on.GivenUp(f"given up by the operator: {reason}"))
        organs.announcer.event("rounds.stopped", f"{text} ({reason})", taken_back=left, version=newest)
        return text, {"taken_back": left, "version": newest, "round": number, "given_up": given_up}

    async def _skip(self, reason: str) -> Answer:
        """Skip the present version now, or once the round on it has been given up."""
        machine = self._runner.machine
        if machine is None:
            outcome = await self._skipper.skip(reason)
            self._look()
            number = outcome.version.number if outcome.version else 0
            return f"version {number} follows, like the one before it", {"version": number}
        number = machine.facts.plan.round
        if machine.state in {on.RoundState.AGGREGATING, on.RoundState.EVALUATING}:
            raise NothingToSkipError(f"round {number} is about to make a version: wait for it")
        self._skipper.wanted = reason
        await self._runner.feed(on.GivenUp(f"given up by the operator: {reason}"))
        return (
            f"round {number} is given up; this version is skipped unless every hub gives the round up",
            {"round": number},
        )

    async def skip_if_wanted(self, outcome: Outcome) -> None:
        """Skip the version that a round has ended on without another, where an operator has asked for it."""
        reason, self._skipper.wanted = self._skipper.wanted, ""
        if reason and outcome.version is None:
            with contextlib.suppress(NothingToSkipError):
                await self._skipper.skip(reason)

    def _is_under_way(self) -> bool:
        """Return whether there is a round that nobody has given up."""
        machine = self._runner.machine
        return machine is not None and machine.state is not on.RoundState.WITHDRAWING

    def _rounds_wanted(self, count: int) -> int:
        """Return how many rounds are still to be paid for if ``count`` more are run."""
        organs = self._organs
        # The devices of the round under way are charged already.
        paid_for = organs.models.newest.number + self._is_under_way()
        return max(organs.schedule.target, paid_for) + count - paid_for
