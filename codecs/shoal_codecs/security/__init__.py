"""Identities, signatures, sealing and the signed roster."""
