"""The demo: a whole fleet on one machine, and what the field does to it."""
