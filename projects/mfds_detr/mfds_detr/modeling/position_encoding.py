"""Spatial position encodings of feature maps (MFDS-DETR, section 4.4.3, table 9).

Sine: Vaswani et al. 2017 in the two-dimensional, normalized form of Carion et al. 2020, with
Deformable-DETR's half-pixel shift. Learned: one embedding per row and per column.
"""

import math

import torch
from torch import Tensor, nn

from wbcnets.errors import ConfigError


class SinePositionEncoding(nn.Module):
    """Sines and cosines of row and column, in fractions of the image without its padding.

    Args:
        channels: Width of the encoding, a multiple of 4: half for y, half for x.
        temperature: Ratio of the longest to the shortest wavelength.
    """

    def __init__(self, channels: int = 256, temperature: float = 10000.0) -> None:
        super().__init__()
        if channels % 4:
            raise ConfigError(f"a sine position encoding needs channels % 4 == 0, got {channels}")
        self.channels = channels
        self.temperature = temperature

    def forward(self, padding_mask: Tensor) -> Tensor:
        """(B, H, W) -> (B, C, H, W); the mask is True on padding."""
        valid = (~padding_mask).to(torch.float32)
        y, x = (_fractions(valid, dim) * (2 * math.pi) for dim in (1, 2))
        encoding = torch.cat([self._waves(y), self._waves(x)], dim=3)
        return encoding.permute(0, 3, 1, 2)

    def _waves(self, angle: Tensor) -> Tensor:
        """(B, H, W) -> (B, H, W, C / 2), sines and cosines in turn."""
        return sine_waves(angle, self.channels // 2, self.temperature)


class LearnedPositionEncoding(nn.Module):
    """One learned vector per row and per column, from tables that fit maps of any size.

    Args:
        channels: Width of the encoding, even: half for x, half for y.
        table_size: Length of the tables, which maps read by linear interpolation.
    """

    def __init__(self, channels: int = 256, table_size: int = 50) -> None:
        super().__init__()
        if channels % 2:
            raise ConfigError(f"a learned position encoding needs an even width, got {channels}")
        self.row_embed = nn.Embedding(table_size, channels // 2)
        self.col_embed = nn.Embedding(table_size, channels // 2)
        nn.init.uniform_(self.row_embed.weight)
        nn.init.uniform_(self.col_embed.weight)

    def forward(self, padding_mask: Tensor) -> Tensor:
        """(B, H, W) -> (B, C, H, W); the mask is True on padding."""
        valid = (~padding_mask).to(torch.float32)
        height, width = padding_mask.shape[1:]
        y = _interpolate(self.row_embed.weight, _fractions(valid[:, :, 0], 1))  # (B, H, C / 2)
        x = _interpolate(self.col_embed.weight, _fractions(valid[:, 0, :], 1))  # (B, W, C / 2)
        columns = x[:, None].expand(-1, height, -1, -1)
        rows = y[:, :, None].expand(-1, -1, width, -1)
        return torch.cat([columns, rows], dim=-1).permute(0, 3, 1, 2)


class NoPositionEncoding(nn.Module):
    """Zeros: the row "without spatial position encoding" of table 9.

    Args:
        channels: Width of the encoding.
    """

    def __init__(self, channels: int = 256) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, padding_mask: Tensor) -> Tensor:
        """(B, H, W) -> (B, C, H, W)."""
        batch, height, width = padding_mask.shape
        return torch.zeros(batch, self.channels, height, width, device=padding_mask.device)


POSITION_ENCODINGS: dict[str, type[nn.Module]] = {
    "sine": SinePositionEncoding,
    "learned": LearnedPositionEncoding,
    "none": NoPositionEncoding,
}


def create_position_encoding(name: str, channels: int) -> nn.Module:
    """Creates a position encoding by its name in ``POSITION_ENCODINGS``.

    Raises:
        ConfigError: if the name is unknown.
    """
    if name not in POSITION_ENCODINGS:
        raise ConfigError(
            f"MODEL.MFDS_DETR.POSITION_ENCODING={name!r} is unknown; "
            f"use one of {sorted(POSITION_ENCODINGS)}"
        )
    return POSITION_ENCODINGS[name](channels)


def sine_waves(angle: Tensor, channels: int, temperature: float = 10000.0) -> Tensor:
    """(...) -> (..., channels): sines and cosines in turn, at geometrically spaced wavelengths."""
    index = torch.arange(channels // 2, dtype=torch.float32, device=angle.device)
    phase = angle[..., None] / temperature ** (2 * index / channels)
    return torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(-2)


def _fractions(valid: Tensor, dim: int) -> Tensor:
    """Returns pixel centers in fractions of the image without its padding, along one dimension.

    Args:
        valid: 1 on the image, 0 on padding.
        dim: The dimension of rows or columns.
    """
    position = valid.cumsum(dim=dim)
    extent = position.narrow(dim, position.shape[dim] - 1, 1)
    return (position - 0.5) / (extent + 1e-6)


def _interpolate(table: Tensor, fraction: Tensor) -> Tensor:
    """Reads a table (N, C) at fractions (B, S) of its length -> (B, S, C).

    The values equal those of ``F.interpolate(mode="linear", align_corners=False)``.
    """
    position = (fraction * len(table) - 0.5).clamp(0, len(table) - 1)
    low = position.floor().long()
    high = (low + 1).clamp(max=len(table) - 1)
    return torch.lerp(table[low], table[high], (position - low)[..., None].to(table.dtype))
