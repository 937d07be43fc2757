"""White-blood-cell networks: layers, losses, data and models for leukocytes in blood smears."""

from wbcnets.version import __version__

__all__ = ["__version__"]
