"""Files: images, strict JSON and YAML, whole-or-nothing writes, checkpoints, drawings."""
