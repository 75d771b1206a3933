"""``python -m shoal_edge`` is ``shoal-edge``."""

from shoal_edge.cli import entry

if __name__ == "__main__":
    entry()
