"""Where a device's examples come from: one reader for each kind of source, opened by one function."""
