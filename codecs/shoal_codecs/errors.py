"""The root of every error Shoal raises on purpose."""


class ShoalError(Exception):
    """An expected fault: its name says what went wrong, its text says what to do about it."""
