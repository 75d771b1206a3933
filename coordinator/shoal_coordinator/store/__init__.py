"""The coordinator's store: what survives a kill at any point."""

from shoal_coordinator.store.records import (
    AuditRecord,
    ParticipationRecord,
    PrivatePlanRecord,
    ReleaseDeviceRecord,
    ReleaseRecord,
    RoundRecord,
    VersionRecord,
)
from shoal_coordinator.store.store import Store

__all__ = [
    "AuditRecord",
    "ParticipationRecord",
    "PrivatePlanRecord",
    "ReleaseDeviceRecord",
    "ReleaseRecord",
    "RoundRecord",
    "Store",
    "VersionRecord",
]
