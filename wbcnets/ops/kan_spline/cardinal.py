"""Cubic B-spline bases on evenly spaced knots in closed form: plain, in place, and in C++.

With u the distance to the middle of a basis in knot spacings,
``B(u) = (a^3 - 4 b^3) / 6``, ``a = (2 - |u|)_+``, ``b = (1 - |u|)_+``, and
``B'(u) = -sign(u) (a^2 - 4 b^2) / 2``
(de Boor, "A Practical Guide to Splines", chapter IX: the cardinal B-spline of order 4).
"""

import ctypes
from collections.abc import Sequence

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
        self._steps = grid.new_empty(5, rows, features)
        self._two = grid.new_full((), 2.0)

    def bases(self, x: Tensor, out: Tensor) -> None:
        """Writes the bases: (r, I) -> (r, n * I), of the grid's type or narrower."""
        position = cardinal_position(x, self.grid)
        outer, inner, cube = self._steps[:3, : len(x)].unbind()
        for index, basis in enumerate(self._split(out)):
            torch.sub(position, cardinal_center(index, self.knots), out=outer).abs_()
            self._distances_to_parts(outer, inner)
            torch.mul(outer, outer, out=cube).mul_(outer)
            torch.mul(inner, inner, out=outer).mul_(inner)
            torch.sub(cube, outer, alpha=4, out=basis)

    def bases_and_input_gradient(
        self, x: Tensor, grad: Tensor, x_grad: Tensor, out: Tensor
    ) -> None:
        """Writes the bases, and the sum of ``grad * slope`` into ``x_grad``.

        Args:
            x: Inputs (r, I).
            grad: Gradient of the bases, (r, n * I), of the grid's type or narrower.
            x_grad: Result (r, I).
            out: Bases (r, n * I) in the type of ``grad``.
        """
        position = cardinal_position(x, self.grid)
        outer, inner, sign, slope, cube = self._steps[:, : len(x)].unbind()
        x_grad.zero_()
        for index, (basis, basis_grad) in enumerate(zip(self._split(out), self._split(grad))):
            torch.sub(position, cardinal_center(index, self.knots), out=sign)
            torch.abs(sign, out=outer)
            sign.sign_()
            self._distances_to_parts(outer, inner)
            torch.mul(outer, outer, out=slope)
            torch.mul(slope, outer, out=cube)
            torch.mul(inner, inner, out=outer)
            slope.sub_(outer, alpha=4).mul_(sign)
            torch.sub(cube, outer.mul_(inner), alpha=4, out=basis)
            x_grad.addcmul_(slope, basis_grad.to(slope.dtype), value=-3)
        spacings = (self.grid[:, -1] - self.grid[:, 0]) / (self.knots - 1)
        x_grad.div_(spacings)

    def _split(self, rows: Tensor) -> Sequence[Tensor]:
        """(r, n * I) -> n tensors (r, I)."""
        return rows.chunk(self.knots - 4, dim=1)

    def _distances_to_parts(self, outer: Tensor, inner: Tensor) -> None:
        """Turns the distances ``|u|`` in ``outer`` into a, and fills ``inner`` with b."""
        torch.sub(self._two, outer, out=outer).clamp_min_(0)
        torch.sub(outer, 1.0, out=inner).clamp_min_(0)


class NativeCardinalCubic:
    """``CardinalCubic`` in C++ (``wbcnets/ops/native/kan_spline.cpp``): one pass for all bases.

    Rows of bases and of their gradients may be parts of longer rows.

    Args:
        library: Result of ``find_native``.
        grid: Uniform knots (I, K) on a CPU.
    """

    scale = 1 / 6

    def __init__(self, library: ctypes.CDLL, grid: Tensor) -> None:
        knots = grid.shape[1]
        first, last = grid[:, 0], grid[:, -1]
        self.count = knots - 4
        self._middle = (first + last) / 2
        self._spacings = (knots - 1) / (last - first)
        self._library = library

    def bases(self, x: Tensor, out: Tensor) -> None:
        """See ``CardinalCubic``."""
        self._call("bases", out, x=x)

    def bases_and_input_gradient(
        self, x: Tensor, grad: Tensor, x_grad: Tensor, out: Tensor
    ) -> None:
        """See ``CardinalCubic``."""
        self._call("bases_and_input_gradient", out, grad, x_grad, x=x)

    def _call(self, name: str, out: Tensor, *others: Tensor, x: Tensor) -> None:
        tensors = [out, *others, x.contiguous(), self._middle, self._spacings]
        sizes = map(ctypes.c_int64, (*x.shape, self.count, out.stride(0)))
        call(self._library, name, tensors, *sizes)


def find_native(grid: Tensor, dtype: torch.dtype) -> ctypes.CDLL | None:
    """Returns the compiled loops; None if there are none for a grid and bases of a type."""
    known = dtype == grid.dtype or (grid.dtype, dtype) == (torch.float32, torch.bfloat16)
    if grid.device.type != "cpu" or grid.dtype not in TYPES or not known:
        return None
    return load_library(LIBRARY)
