"""What the worker is asked for: one module an area, loaded when the first such request comes."""
