"""Cubic B-spline bases on evenly spaced knots in closed form: plain, in place, and in C++.

With u the distance to the middle of a basis in knot spacings,
``B(u) = (a^3 - 4 b^3) / 6``, ``a = (2 - |u|)_+``, ``b = (1 - |u|)_+``, and
``B'(u) = -sign(u) (a^2 - 4 b^2) / 2``
(de Boor, "A Practical Guide to Splines", chapter IX: the cardinal B-spline of order 4).
"""

import ctypes

import torch
from torch import Tensor

from wbcnets.ops.native import TYPES, call, load_library

LIBRARY = "kan_spline"


def cardinal_position(x: Tensor, grid: Tensor) -> Tensor:
    """Returns positions in knot spacings from the middle of a uniform grid: (..., I) -> (..., I).

    They count from the middle, not from the first knot, because rounding grows with the distance.
    They are clamped to the outer knots, where all bases and slopes are 0, so powers cannot
    overflow.
    """
    first, last = grid[:, 0], grid[:, -1]
    intervals = grid.shape[1] - 1
    position = (x - (first + last) / 2) * (intervals / (last - first))
    return position.clamp(-intervals / 2, intervals / 2)


def cardinal_center(basis: int, knots: int) -> float:
    """Returns the middle of a cubic basis, in knot spacings from the middle of the grid."""
    return basis + 2 - (knots - 1) / 2


def cardinal_cubic_bases(x: Tensor, grid: Tensor) -> Tensor:
    """Returns cubic bases on uniform knots: (..., I), (I, K) -> (..., K - 4, I).

    With u the distance to the middle of a basis in knot spacings,
    ``B(u) = ((2 - |u|)_+^3 - 4 (1 - |u|)_+^3) / 6``.
    """
    knots = grid.shape[1]
    position = cardinal_position(x, grid)
    bases = []
    # One basis at a time: compilers then write each block of the result in one loop over x
    for index in range(knots - 4):
        distance = (position - cardinal_center(index, knots)).abs()
        outer = (2 - distance).clamp(min=0)
        inner = (1 - distance).clamp(min=0)
        bases.append((outer * outer * outer - 4 * (inner * inner * inner)) / 6)
    return torch.stack(bases, dim=-2)


class CardinalCubic:
    """Bases of one block of rows at a time, in reused buffers.

    The bases are six times as large; the division is left to the weights, which are fewer.

    Args:
        grid: Uniform knots (I, K).
        rows: Largest number of rows in a block.
    """

    scale = 1 / 6

    def __init__(self, grid: Tensor, rows: int) -> None:
        features, self.knots = grid.shape
        self.grid = grid
        self._bases = grid.new_empty(rows, self.knots - 4, features)
        self._steps = grid.new_empty(4, rows, features)
        self._two = grid.new_full((), 2.0)

    def bases(self, x: Tensor) -> Tensor:
        """(r, I) -> (r, n * I); overwritten by the next call."""
        position = cardinal_position(x, self.grid)
        bases = self._bases[: len(x)]
        outer, inner = self._steps[:2, : len(x)].unbind()
        for index, basis in enumerate(bases.unbind(1)):
            torch.sub(position, cardinal_center(index, self.knots), out=outer).abs_()
            self._distances_to_parts(outer, inner)
            torch.mul(outer, outer, out=basis).mul_(outer)
            torch.mul(inner, inner, out=outer).mul_(inner)
            basis.sub_(outer, alpha=4)
        return bases.flatten(1)

    def bases_and_input_gradient(self, x: Tensor, grad: Tensor, x_grad: Tensor) -> Tensor:
        """(r, I), (r, n * I) -> (r, n * I); ``x_grad`` receives the sum of ``grad * slope``."""
        position = cardinal_position(x, self.grid)
        bases = self._bases[: len(x)]
        outer, inner, sign, slope = self._steps[:, : len(x)].unbind()
        x_grad.zero_()
        for index, (basis, basis_grad) in enumerate(
            zip(bases.unbind(1), grad.view_as(bases).unbind(1))
        ):
            torch.sub(position, cardinal_center(index, self.knots), out=sign)
            torch.abs(sign, out=outer)
            sign.sign_()
            self._distances_to_parts(outer, inner)
            torch.mul(outer, outer, out=slope)
            torch.mul(slope, outer, out=basis)
            torch.mul(inner, inner, out=outer)
            slope.sub_(outer, alpha=4).mul_(sign)
            basis.sub_(outer.mul_(inner), alpha=4)
            x_grad.addcmul_(slope, basis_grad, value=-3)
        spacings = (self.grid[:, -1] - self.grid[:, 0]) / (self.knots - 1)
        x_grad.div_(spacings)
        return bases.flatten(1)

    def _distances_to_parts(self, outer: Tensor, inner: Tensor) -> None:
        """Turns the distances ``|u|`` in ``outer`` into a, and fills ``inner`` with b."""
        torch.sub(self._two, outer, out=outer).clamp_min_(0)
        torch.sub(outer, 1.0, out=inner).clamp_min_(0)


class NativeCardinalCubic:
    """``CardinalCubic`` in C++ (``wbcnets/ops/native/kan_spline.cpp``): one pass for all bases.

    Args:
        library: Result of ``find_native``.
        grid: Uniform knots (I, K) on a CPU.
        rows: Largest number of rows in a block.
    """

    scale = 1 / 6

    def __init__(self, library: ctypes.CDLL, grid: Tensor, rows: int) -> None:
        features, knots = grid.shape
        first, last = grid[:, 0], grid[:, -1]
        self.count = knots - 4
        self._middle = (first + last) / 2
        self._spacings = (knots - 1) / (last - first)
        self._bases = grid.new_empty(rows, self.count * features)
        self._library = library

    def bases(self, x: Tensor) -> Tensor:
        """(r, I) -> (r, n * I); overwritten by the next call."""
        bases = self._bases[: len(x)]
        self._call("bases", x.contiguous(), self._middle, self._spacings, bases)
        return bases

    def bases_and_input_gradient(self, x: Tensor, grad: Tensor, x_grad: Tensor) -> Tensor:
        """(r, I), (r, n * I) -> (r, n * I); ``x_grad`` receives the sum of ``grad * slope``."""
        bases = self._bases[: len(x)]
        tensors = (grad, self._middle, self._spacings, bases, x_grad)
        self._call("bases_and_input_gradient", x.contiguous(), *tensors)
        return bases

    def _call(self, name: str, x: Tensor, *others: Tensor) -> None:
        sizes = map(ctypes.c_int64, (*x.shape, self.count))
        call(self._library, name, [x, *others], *sizes)


def find_native(grid: Tensor) -> ctypes.CDLL | None:
    """Returns the compiled loops; None if there are none for the grid's device and type."""
    if grid.device.type != "cpu" or grid.dtype not in TYPES:
        return None
    return load_library(LIBRARY)
