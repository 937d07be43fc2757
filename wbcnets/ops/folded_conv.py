"""A convolution with the constant batch norm behind it folded into its weights.

A frozen batch norm is ``y = scale * x + shift`` with constants per channel. Scaling the weights
instead of the map gives the same result: weights are fewer than the map's values, and the map is
written once instead of three times.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


class FoldedConv2d(nn.Conv2d):
    """Convolution, frozen batch norm and activation in one: (B, C, H, W) -> (B, C', H', W').

    It shares the parameters of the modules that it replaces, so the weights still train, and their
    names in the state dict (``weight``, ``norm.weight``, ...) stay the same.

    Args:
        convolution: A convolution without bias.
        norm: The frozen batch norm behind it, with ``weight``, ``bias``, ``running_mean``,
            ``running_var`` and ``eps``.
        activation: Function of the result, or None.
    """

    norm: Any

    def __init__(self, convolution: Any, norm: nn.Module, activation: Any = None) -> None:
        super().__init__(
            convolution.in_channels,
            convolution.out_channels,
            convolution.kernel_size,
            convolution.stride,
            convolution.padding,
            convolution.dilation,
            convolution.groups,
            bias=False,
            device="meta",
        )
        self.weight = convolution.weight
        self.norm = norm
        self.activation = activation
        self.train(convolution.training)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the convolved, normalized and activated map."""
        norm = self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight = self.weight * scale.view(-1, 1, 1, 1)
        shift = norm.bias - norm.running_mean * scale
        x = F.conv2d(x, weight, shift, self.stride, self.padding, self.dilation, self.groups)
        return x if self.activation is None else self.activation(x)
