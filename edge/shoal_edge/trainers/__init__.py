"""Trainers: one small protocol, LiteRT behind it."""
