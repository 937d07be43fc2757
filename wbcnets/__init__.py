"""White-blood-cell networks: layers, losses, data and models for leukocytes in blood smears.

Importing the package registers its classifiers, so that ``timm.create_model`` knows their names.
"""

from wbcnets.models import list_models
from wbcnets.version import __version__

__all__ = ["__version__", "list_models"]
