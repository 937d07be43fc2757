"""The runtime that both trainers share."""
