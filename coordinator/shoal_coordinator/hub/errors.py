"""What can go wrong in a hub process."""

from shoal_codecs.errors import ShoalError


class HubError(ShoalError):
    """A fault of a hub process, or a message it cannot use."""


class HubStoreError(HubError):
    """The hub's log cannot be read or written; without it the hub answers nothing."""


class MissingCiphertextError(HubError):
    """A report that was agreed on and is no longer stored."""


class HubFolderBusyError(HubStoreError):
    """Another process holds the hub's log."""


class LogBehindError(HubStoreError):
    """A peer has seen a newer state of this hub's log than there is here."""


class LogForkedError(HubStoreError):
    """A peer has seen another history of this hub's log than there is here."""


class PeerBehindError(HubError):
    """A peer whose log is older than, or another than, the one it has shown before."""


class HubRoleError(HubError):
    """The name and key in this folder are no hub's on the roster."""


class UnknownRoundError(HubError):
    """A message for a round this hub has signed no plan of."""


class LateReportError(HubError):
    """A report that came after this hub closed."""


class UnexpectedMessageError(HubError):
    """A message of a kind that has no business on the topic it came on."""
