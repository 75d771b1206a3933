"""These tests need TensorFlow: they run in an environment of their own, and are left out elsewhere."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("tensorflow") else ["test_*.py"]
