"""``python -m shoal_coordinator`` is ``shoal``."""

from shoal_coordinator.cli import main

if __name__ == "__main__":
    main()
