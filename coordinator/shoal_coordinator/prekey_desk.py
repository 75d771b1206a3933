"""The key bundles that devices have parked for rounds of mode ``single``, as the coordinator hears them."""

from collections.abc import Iterable, Mapping

from shoal_codecs.secagg.single.boxes import agreed_secret
from shoal_codecs.secagg.single.bundles import KEY_BYTES, check_bundle
from shoal_codecs.secagg.single.errors import BadKeyError, BundleSignatureError
from shoal_codecs.security.identity import SIGNATURE_BYTES
from shoal_codecs.security.roster import Roster
from shoal_codecs.wire.messages import Prekeys
from shoal_codecs.wire.single import Prekey

MOST_BUNDLES = 64
_PROBE = b"\1" * 32


class PrekeyDesk:
    """The newest word of every device on its bundles, and which of them a plan has used."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._devices = frozenset(roster.names("device"))
        self._parked: dict[str, tuple[Prekey, ...]] = {}
        self._used: dict[str, set[Prekey]] = {}
        self._checked: dict[str, Prekey] = {}

    def hear(self, message: Prekeys) -> None:
        """Take a device's retained word; it replaces the one before. What holds no keys is left out."""
        device = message.sender
        if device not in self._devices:
            return
        parked = tuple(bundle for bundle in message.bundles[:MOST_BUNDLES] if _has_keys(bundle))
        self._parked[device] = parked
        self._used[device] = self._used.get(device, set()).intersection(parked)

    def choose(self, cohort: Iterable[str]) -> dict[str, Prekey]:
        """Return a bundle that no plan has used for each device of ``cohort`` that has parked one."""
        chosen = {}
        for device in cohort:
            used = self._used.get(device, set())
            fresh = (bundle for bundle in self._parked.get(device, ()) if bundle not in used)
            bundle = next((one for one in fresh if self._is_sound(device, one)), None)
            if bundle is not None:
                chosen[device] = bundle
        return chosen

    def unbundled(self) -> frozenset[str]:
        """Return the devices that have parked no bundle that is left."""
        parked, used = self._parked, self._used
        return frozenset(
            device
            for device in self._devices
            if all(bundle in used.get(device, ()) for bundle in parked.get(device, ()))
        )

    def spend(self, bundles: Mapping[str, Prekey]) -> None:
        """Note that a plan uses these, by device; those that take part park others."""
        for device, bundle in bundles.items():
            self._used.setdefault(device, set()).add(bundle)

    def _is_sound(self, device: str, bundle: Prekey) -> bool:
        if self._checked.get(device) == bundle:
            # Who can take part is looked at with every word of the fleet.
            return True
        try:
            check_bundle(device, bundle, self._roster.fleet, self._roster)
            # One of small order agrees on nothing, and everybody who drew its device would fail.
            for key in (bundle.mask_key, bundle.seal_key):
                agreed_secret(_PROBE, key)
        except (BundleSignatureError, BadKeyError):
            self.spend({device: bundle})
            return False
        self._checked[device] = bundle
        return True


def _has_keys(bundle: Prekey) -> bool:
    keys = (bundle.mask_key, bundle.seal_key, bundle.draw)
    return all(len(key) == KEY_BYTES for key in keys) and len(bundle.signature) == SIGNATURE_BYTES
