"""The agent on a device: trains, protects and sends its update, installs releases."""
