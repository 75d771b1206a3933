"""Small public data for the shipped tasks, in each task's own form; nothing is fetched but packages.

Each module has a maker that returns ``Dataset``: ``shakespeare`` (next character, next word, kind of play),
``ecg`` (beats), ``vibration`` (synthetic bearings), ``images`` (MNIST as published, and in colour).
"""

from datasets.base import Dataset

__all__ = ["Dataset"]
