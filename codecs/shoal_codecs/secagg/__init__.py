"""Additive secret sharing between hubs: pure functions and machines, no I/O."""
