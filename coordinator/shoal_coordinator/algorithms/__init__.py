"""The coordinator's algorithms: ``registry`` has them by the name that settings and plans use."""
