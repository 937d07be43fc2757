"""Weights that come with the library, for use without a network."""

from pathlib import Path
from typing import Any

WEIGHTS = Path(__file__).resolve().parent / "weights"

# Acevedo et al., Data in Brief 2020: the folders of the PBC set, in alphabetical order
PBC_CLASSES = (
    "basophil",
    "eosinophil",
    "erythroblast",
    "ig",
    "lymphocyte",
    "monocyte",
    "neutrophil",
    "platelet",
)


def shipped_weights(name: str, class_names: tuple[str, ...]) -> dict[str, Any]:
    """What timm's configuration says of a file in `WEIGHTS`: where it is, and what it tells apart.

    Args:
        name: The file's name without its suffix, such as "resnext_cc_26.pbc".
        class_names: In the order of the logits.
    """
    return {
        "file": str(WEIGHTS / f"{name}.safetensors"),
        "hf_hub_id": None,
        "num_classes": len(class_names),
        "label_names": class_names,
        "license": "apache-2.0",
    }
