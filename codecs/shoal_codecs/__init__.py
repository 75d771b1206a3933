"""Everything both ends of the wire must agree on, byte for byte."""

__version__ = "0.1.0"
