"""The only place that imports an MQTT client: links, and blobs over retained topics."""
