"""MFDS-DETR as a Detectron2 project: importing it registers the model and the timm backbone."""

from mfds_detr.config import add_mfds_detr_config
from mfds_detr.modeling.backbone import TimmBackbone
from mfds_detr.modeling.meta_arch import MFDSDETR

__all__ = ["MFDSDETR", "TimmBackbone", "add_mfds_detr_config"]
