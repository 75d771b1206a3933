"""The hub process: keeps one share of every update of a round and releases only the sum."""
