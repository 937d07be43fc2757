"""Checkpoints and other people's weights."""
