"""White balance: each channel divided by its brightest patch, the empty background of a smear.

The "white patch" method of Land and McCann, "Lightness and Retinex Theory", JOSA 1971. Lamps,
filters and cameras scale the channels of all images of a laboratory; the division takes that out.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from wbcnets.ops.autocast import widened

# Side of the patches in px; their mean keeps noise and hot pixels from counting as background
PATCH = 4
# A darker channel is no background: an unlit image is not brightened without limit
_DARKEST = 0.1


class WhiteBalance(nn.Module):
    """Scales the channels so that the brightest patch of each has mean 1: (B, C, H, W), same shape.

    Images have values in [0, 1], and so has the result. Images smaller than a patch count as one.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Returns the balanced images."""
        wide = widened(x)
        side = min(PATCH, *x.shape[-2:])
        brightest = F.avg_pool2d(wide, side).amax(dim=(2, 3), keepdim=True)
        return (wide / brightest.clamp(min=_DARKEST)).clamp(max=1.0).to(x.dtype)
