"""Building blocks, one per file, each usable on its own."""

from wbcnets.layers.channel_attention import ChannelAttention
from wbcnets.layers.color import RgbToHsv, WhiteBalance, rgb_to_hsv
from wbcnets.layers.conv_attention import ConvAttention, ConvProjection
from wbcnets.layers.conv_embed import ConvEmbed
from wbcnets.layers.cross_layer_fusion import CrossLayerFusion
from wbcnets.layers.eca import EfficientChannelAttention, eca_kernel_size
from wbcnets.layers.extra_stage import ExtraStage
from wbcnets.layers.global_local_attention import GlobalLocalAttention, InvertedResidual
from wbcnets.layers.kan import KAN, KANLinear
from wbcnets.layers.ms_deform_attn import MultiScaleDeformableAttention
from wbcnets.layers.necks import create_neck, neck_names
from wbcnets.layers.necks.bifpn import BiFPN
from wbcnets.layers.necks.channel_mapper import ChannelMapper
from wbcnets.layers.necks.fapn import FaPN
from wbcnets.layers.necks.fpn import FPN
from wbcnets.layers.necks.hs_fpn import HSFPN, SelectiveFeatureFusion
from wbcnets.layers.necks.pafpn import PAFPN
from wbcnets.layers.scconv import CRU, SRU, SCConv
from wbcnets.layers.self_attention import SelfAttention
from wbcnets.layers.sparse_attention import SparseAttention
from wbcnets.layers.transformer_block import Block

__all__ = [
    "CRU",
    "FPN",
    "HSFPN",
    "KAN",
    "PAFPN",
    "SRU",
    "BiFPN",
    "Block",
    "ChannelAttention",
    "ChannelMapper",
    "ConvAttention",
    "ConvEmbed",
    "ConvProjection",
    "CrossLayerFusion",
    "EfficientChannelAttention",
    "ExtraStage",
    "FaPN",
    "GlobalLocalAttention",
    "InvertedResidual",
    "KANLinear",
    "MultiScaleDeformableAttention",
    "RgbToHsv",
    "SCConv",
    "SelectiveFeatureFusion",
    "SelfAttention",
    "SparseAttention",
    "WhiteBalance",
    "create_neck",
    "eca_kernel_size",
    "neck_names",
    "rgb_to_hsv",
]
