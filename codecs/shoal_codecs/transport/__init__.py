"""MQTT links, blobs and retained topics: the only place that imports an MQTT client."""
