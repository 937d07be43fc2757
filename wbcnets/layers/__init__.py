"""Building blocks, one per file, each one usable alone."""

from wbcnets.layers.bifpn import BiFPN
from wbcnets.layers.channel_attention import ChannelAttention
from wbcnets.layers.channel_mapper import ChannelMapper
from wbcnets.layers.conv_attention import ConvAttention, ConvProjection
from wbcnets.layers.conv_embed import ConvEmbed
from wbcnets.layers.extra_stage import ExtraStage
from wbcnets.layers.fapn import FaPN
from wbcnets.layers.fpn import FPN
from wbcnets.layers.global_local_attention import GlobalLocalAttention, LocalPart
from wbcnets.layers.hs_fpn import HSFPN, SelectiveFeatureFusion
from wbcnets.layers.kan import KAN, KANLinear
from wbcnets.layers.ms_deform_attn import MultiScaleDeformableAttention
from wbcnets.layers.necks import create_neck, neck_names
from wbcnets.layers.pafpn import PAFPN
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
    "ExtraStage",
    "FaPN",
    "GlobalLocalAttention",
    "KANLinear",
    "LocalPart",
    "MultiScaleDeformableAttention",
    "SCConv",
    "SelectiveFeatureFusion",
    "SelfAttention",
    "SparseAttention",
    "create_neck",
    "neck_names",
]
