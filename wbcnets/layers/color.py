"""Color: conversion from RGB to hue, saturation and value (HSV), and white balance.

HSV: Smith, "Color Gamut Transform Pairs", SIGGRAPH 1978. ResNeXt-CC sees its images in this color
space, each channel in [0, 1] (section "Data enhancement"). White balance: Land and McCann,
"Lightness and Retinex Theory", JOSA 1971. Lamps, filters and cameras scale the channels of all
images of a laboratory; the brightest patch of each channel tells by how much.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcnets.ops.autocast import widened

# Side of the patches in px; their mean keeps noise and hot pixels from counting as background
PATCH = 4
# The background of PBC's images. Not white: white has no hue, and noise would give it any
BACKGROUND = (1.0, 0.89, 0.8)
# A darker channel is no background: an unlit image is not brightened without limit
_DARKEST = 0.1


def rgb_to_hsv(rgb: Tensor) -> Tensor:
    """Converts RGB in [0, 1] to HSV in [0, 1]: (B, 3, H, W) -> (B, 3, H, W).

    Gray has hue 0, and black has saturation 0 too. There, and where two channels are both the
    largest, HSV has a kink or a jump; the gradient is that of one side, or 0. It is finite
    everywhere: differences and values too small to divide by count as gray and as black. Computed
    in float32 or wider.

    Args:
        rgb: Red, green and blue along the second dimension.
    """
    wide = widened(rgb)
    red, green, blue = wide.unbind(1)
    largest = torch.maximum(torch.maximum(red, green), blue)
    smallest = torch.minimum(torch.minimum(red, green), blue)
    chroma = largest - smallest
    # Replace the divisors of gray and black before the division: the gradient of an unused branch
    # must be finite too
    smallest_divisor = torch.finfo(wide.dtype).tiny ** 0.5
    gray, black = chroma < smallest_divisor, largest < smallest_divisor
    divisor = chroma.masked_fill(gray, 1.0)
    is_red = largest == red
    is_green = (largest == green) & ~is_red
    sector = torch.where(
        is_red,
        (green - blue) / divisor,
        torch.where(is_green, 2.0 + (blue - red) / divisor, 4.0 + (red - green) / divisor),
    )
    hue = torch.where(sector < 0, sector + 6.0, sector) / 6.0
    saturation = chroma / largest.masked_fill(black, 1.0)
    hue = hue.masked_fill(gray, 0.0)
    saturation = saturation.masked_fill(black, 0.0)
    return torch.stack([hue, saturation, largest], dim=1).to(rgb.dtype)


class RgbToHsv(nn.Module):
    """Converts the first three channels to HSV: (B, C, H, W) -> (B, C, H, W).

    Further channels, and images of one or two channels, stay unchanged.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Returns the image with its color in HSV."""
        if x.shape[1] < 3:
            return x
        hsv = rgb_to_hsv(x[:, :3])
        return hsv if x.shape[1] == 3 else torch.cat([hsv, x[:, 3:]], dim=1)


class WhiteBalance(nn.Module):
    """Gives the brightest patch of each channel a set value: (B, C, H, W), same shape.

    Images have values in [0, 1], and so has the result. Images smaller than a patch count as one.

    Args:
        background: Value of the brightest patch per channel, in (0, 1]. Images of another number of
            channels get 1.
    """

    def __init__(self, background: Sequence[float] = BACKGROUND) -> None:
        super().__init__()
        self.background = tuple(background)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the balanced images."""
        wide = widened(x)
        side = min(PATCH, *x.shape[-2:])
        brightest = F.avg_pool2d(wide, side).amax(dim=(2, 3), keepdim=True)
        channels = x.shape[1]
        values = self.background if len(self.background) == channels else (1.0,) * channels
        target = wide.new_tensor(values).view(1, channels, 1, 1)
        return (wide * (target / brightest.clamp(min=_DARKEST))).clamp(max=1.0).to(x.dtype)

    def extra_repr(self) -> str:
        """Returns the background for ``print``."""
        return f"background={self.background}"
