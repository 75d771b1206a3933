"""Inference models out of a task's own ``infer`` signature, by numpy and flatbuffers alone."""
