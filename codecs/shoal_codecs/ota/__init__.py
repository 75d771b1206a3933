"""Release manifests and the health gate that both ends agree on."""
