"""MFDS-DETR as a Detectron2 project.

Importing it registers the model, the timm backbone and the known datasets; ``mfds_detr.api`` loads,
trains and evaluates detectors.
"""

from wbcnets.errors import explain_missing

with explain_missing("pip install 'wbcnets[detection]', then: wbcnets install-detectron2"):
    from mfds_detr.config import add_mfds_detr_config
    from mfds_detr.data.datasets import register_known_datasets
    from mfds_detr.modeling.backbone import TimmBackbone
    from mfds_detr.modeling.meta_arch import MFDSDETR

__all__ = ["MFDSDETR", "TimmBackbone", "add_mfds_detr_config"]

register_known_datasets()
