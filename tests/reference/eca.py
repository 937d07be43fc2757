"""Efficient channel attention, one channel at a time."""

import math

import torch


def efficient_channel_attention(x, kernel):
    """(B, C, H, W), (k,) -> (B, C, H, W): equation 10 of ECA-Net with zeros beyond both ends."""
    batch, channels, _, _ = x.shape
    reach = len(kernel) // 2
    out = torch.zeros_like(x)
    for b in range(batch):
        averages = [float(x[b, c].mean()) for c in range(channels)]
        for c in range(channels):
            total = 0.0
            for offset in range(-reach, reach + 1):
                if 0 <= c + offset < channels:
                    total += float(kernel[offset + reach]) * averages[c + offset]
            out[b, c] = x[b, c] / (1 + math.exp(-total))
    return out
