"""Classifiers, one family per file; importing this package registers them in timm."""

import timm

from wbcnets.models import conv_sparse_vit, resnext_cc, sckansformer, sparse_vit
from wbcnets.models.conv_sparse_vit import ConvSparseViT
from wbcnets.models.factory import LoadReport, load_weights
from wbcnets.models.resnext_cc import ResNeXtCC
from wbcnets.models.sckansformer import SCKansformer
from wbcnets.models.sparse_vit import SparseViT

__all__ = [
    "ConvSparseViT",
    "LoadReport",
    "ResNeXtCC",
    "SCKansformer",
    "SparseViT",
    "list_models",
    "load_weights",
]

_FAMILIES = (conv_sparse_vit, resnext_cc, sckansformer, sparse_vit)


def list_models() -> list[str]:
    """Returns the names that this library has registered in timm, sorted."""
    modules = [family.__name__.rpartition(".")[2] for family in _FAMILIES]
    return sorted(name for module in modules for name in timm.list_models(module=module))
