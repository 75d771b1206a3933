"""What this processor does by instructions of its own."""

from functools import cache
from pathlib import Path

_TOLD = Path("/proc/cpuinfo")


@cache
def has_aes() -> bool:
    """Return whether this processor has instructions for AES, as the Linux kernel tells; else False."""
    try:
        lines = _TOLD.read_text(errors="replace").splitlines()
    except OSError:
        return False
    # "flags" on x86-64, "Features" on ARM.
    return any("aes" in line.split() for line in lines if line[:8].lower().startswith(("flags", "features")))
