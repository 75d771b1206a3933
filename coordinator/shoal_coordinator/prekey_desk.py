"""The key bundles that devices have parked for rounds of mode ``single``, as the coordinator hears them."""

from collections.abc import Iterable

from shoal_codecs.secagg.single.boxes import agreed_secret
from shoal_codecs.secagg.single.bundles import check_bundle
from shoal_codecs.secagg.single.errors import BadKeyError, BundleSignatureError
from shoal_codecs.security.roster import Roster
from shoal_codecs.wire.messages import Prekeys
from shoal_codecs.wire.single import Prekey

MOST_BUNDLES = 64
_PROBE = b"\1" * 32


class PrekeyDesk:
    """The newest word of every device on its bundles, and which of them a plan has used."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._parked: dict[str, tuple[Prekey, ...]] = {}
        self._used: set[Prekey] = set()

    def hear(self, message: Prekeys) -> None:
        """Take a device's retained word; it replaces the one before."""
        self._parked[message.sender] = message.bundles[:MOST_BUNDLES]
        held = {bundle for bundles in self._parked.values() for bundle in bundles}
        self._used &= held

    def choose(self, cohort: Iterable[str]) -> dict[str, Prekey]:
        """Return a bundle that no plan has used for each device of ``cohort`` that has parked one."""
        chosen = {}
        for device in cohort:
            fresh = (bundle for bundle in self._parked.get(device, ()) if bundle not in self._used)
            bundle = next((one for one in fresh if self._is_sound(device, one)), None)
            if bundle is not None:
                chosen[device] = bundle
        return chosen

    def spend(self, bundles: Iterable[Prekey]) -> None:
        """Note that a plan uses these; the devices that take part park others."""
        self._used.update(bundles)

    def _is_sound(self, device: str, bundle: Prekey) -> bool:
        try:
            check_bundle(device, bundle, self._roster.fleet, self._roster)
            # One of small order agrees on nothing, and everybody who drew its device would fail.
            for key in (bundle.mask_key, bundle.seal_key):
                agreed_secret(_PROBE, key)
        except (BundleSignatureError, BadKeyError):
            self._used.add(bundle)
            return False
        return True
