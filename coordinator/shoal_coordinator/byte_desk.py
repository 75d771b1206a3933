"""The byte budgets of a running coordinator: what devices used today, and which codec fits."""

from collections.abc import Collection

from shoal_codecs.wire.heartbeat import Reading
from shoal_codecs.wire.packing import pack
from shoal_coordinator.announcer import Announcer
from shoal_coordinator.byte_budget import ByteDays, DayRow, pick_codec, smallest_cost
from shoal_coordinator.planning import PlanSettings
from shoal_coordinator.registry import DeviceView
from shoal_coordinator.round_errors import NoCodecFitsError
from shoal_coordinator.store import Store

_KEY = "byte-days"


class ByteDesk:
    """Counts and chooses; ``hubs`` receive reports in mode ``hubs``, ``pause_ms`` is between two rounds."""

    def __init__(
        self,
        days: ByteDays,
        settings: PlanSettings,
        dimension: int,
        *,
        hubs: int,
        pause_ms: int,
        store: Store,
        announcer: Announcer,
    ) -> None:
        self.days = days
        self._settings = settings
        self._dimension = dimension
        self._hubs = hubs
        self._pause_ms = pause_ms
        self._store = store
        self._announcer = announcer
        self._said = ""
        self._left_out: frozenset[str] = frozenset()

    async def load(self) -> None:
        """Take up what an earlier process counted."""
        self.days.restore(await self._store.get_record(_KEY, dict[str, DayRow]) or {})

    async def save(self) -> None:
        """Store today's counts."""
        await self._store.set_value(_KEY, pack(self.days.snapshot()))

    def heard(self, view: DeviceView, now_ms: int) -> None:
        """Take what a device says of its bytes, and of how many it may use."""
        self.days.declare(view.name, view.number(Reading.BYTES_PER_DAY))
        self.counted(view.name, view.number(Reading.SENT), view.number(Reading.RECEIVED), now_ms)

    def counted(self, device: str, sent: int, received: int, now_ms: int) -> None:
        """Take a device's running totals."""
        if sent or received:
            self.days.counted(device, sent, received, now_ms)

    def spent(self, devices: Collection[str], now_ms: int) -> frozenset[str]:
        """Return those of ``devices`` whose day holds no further round, with the smallest codec even."""
        if not self.days.is_any:
            return frozenset()
        least = smallest_cost(
            self._settings, self._dimension, len(devices), hubs=self._hubs, fixed=self._is_fixed
        )
        over = self.days.over(devices, least.total, now_ms)
        for name in sorted(over - self._left_out):
            self._announcer.event(
                "bytes.used_up",
                f"{name} is left out until midnight UTC: of its {self.days.budget(name):,} bytes of the day "
                f"{self.days.used(name, now_ms):,} are used, and a round takes {least.total:,}",
                device=name,
            )
        self._left_out = over
        return over

    def settings_for(self, cohort: Collection[str]) -> PlanSettings:
        """Return the plan settings for ``cohort``: with the best codec that its budgets leave room for.

        Where none fits, the smallest is taken and it is said: days that are used up leave devices out.
        """
        allowance = self.days.allowance(cohort, self._pause_ms)
        if allowance == float("inf"):
            return self._settings
        try:
            picked = pick_codec(
                self._settings, self._dimension, len(cohort), allowance, hubs=self._hubs, fixed=self._is_fixed
            )
        except NoCodecFitsError as error:
            picked = error.smallest
            self._say(
                "bytes.none_fits",
                f"{type(error).__name__}: {error}; rounds go on with it while days last",
                picked.cost.total,
                allowance,
            )
        else:
            chosen = picked.settings
            self._say(
                "bytes.codec",
                f"{chosen.codec}, {100 * chosen.kept_share:g} % of the coordinates, level {chosen.clamp}: "
                f"{picked.cost.total} bytes a round, {allowance:.0f} fit",
                picked.cost.total,
                allowance,
            )
        return picked.settings

    @property
    def _is_fixed(self) -> bool:
        # What a round costs in privacy hangs on its codec, and the budget was planned with one.
        return self._settings.privacy is not None

    def _say(self, kind: str, text: str, cost: int, allowance: float) -> None:
        """Tell the operator, once for each codec that is chosen or not there."""
        about = f"{kind} {cost}"
        if about != self._said:
            self._said = about
            self._announcer.event(kind, text, cost=cost, allowance=int(allowance))
