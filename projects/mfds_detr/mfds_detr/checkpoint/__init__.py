"""Checkpoints of this project, and weights of others."""
