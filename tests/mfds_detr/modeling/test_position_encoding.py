import math

import pytest
import torch

pytest.importorskip("detectron2")

from torch.nn import functional as F

from mfds_detr.modeling.position_encoding import (
    POSITION_ENCODINGS,
    LearnedPositionEncoding,
    NoPositionEncoding,
    SinePositionEncoding,
    create_position_encoding,
    sine_waves,
)
from wbcnets.errors import ConfigError


def mask_of(sizes, height=4, width=6):
    mask = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for index, (rows, columns) in enumerate(sizes):
        mask[index, :rows, :columns] = False
    return mask


def test_sine_by_hand():
    # 8 channels: y in 0..3, x in 4..7; sine and cosine at wavelength 1 and at 10000^(2/4) = 100.
    encoding = SinePositionEncoding(8)(mask_of([(4, 6), (2, 3)]))
    assert encoding.shape == (2, 8, 4, 6)
    for image, (rows, columns) in enumerate([(4, 6), (2, 3)]):
        for row in range(rows):
            for column in range(columns):
                y = 2 * math.pi * (row + 0.5) / rows
                x = 2 * math.pi * (column + 0.5) / columns
                expected = [
                    wave(angle / scale)
                    for angle in (y, x)
                    for scale in (1.0, 100.0)
                    for wave in (math.sin, math.cos)
                ]
                found = encoding[image, :, row, column].tolist()
                assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", POSITION_ENCODINGS)
def test_padding_changes_nothing(name):
    encode = create_position_encoding(name, 16)
    alone = encode(mask_of([(3, 5)], 3, 5))
    padded = encode(mask_of([(3, 5), (8, 9)], 8, 9))
    assert torch.allclose(alone[0], padded[0, :, :3, :5], atol=1e-6)


@pytest.mark.parametrize("size", [5, 50, 64])
def test_learned_is_the_table_resampled(size):
    encode = LearnedPositionEncoding(8)
    resampled = F.interpolate(encode.row_embed.weight.t()[None], size=size, mode="linear")[0]
    assert torch.allclose(encode(mask_of([(size, 3)], size, 3))[0, 4:, :, 1], resampled, atol=1e-5)


def test_sine_of_a_fully_padded_image_is_finite():
    assert torch.isfinite(SinePositionEncoding(8)(mask_of([(0, 0)]))).all()


def test_learned_has_a_vector_per_row_and_column():
    encode = LearnedPositionEncoding(8, table_size=6)
    encoding = encode(mask_of([(6, 6)] * 2, 6, 6))
    assert encoding.shape == (2, 8, 6, 6)
    assert torch.allclose(encoding[0, :4, 2, 3], encode.col_embed.weight[3], atol=1e-5)
    assert torch.allclose(encoding[1, 4:, 2, 3], encode.row_embed.weight[2], atol=1e-5)
    encoding.sum().backward()
    assert encode.row_embed.weight.grad.abs().min() > 0


@pytest.mark.parametrize("size", [(3, 5), (60, 70)])
def test_learned_takes_any_size(size):
    encode = LearnedPositionEncoding(8)
    encoding = encode(mask_of([size], *size))
    assert encoding.shape == (1, 8, *size)
    # Rows differ in the second half only, columns in the first
    assert torch.equal(encoding[0, :4, 0], encoding[0, :4, -1])
    assert torch.equal(encoding[0, 4:, :, 0], encoding[0, 4:, :, -1])
    assert not torch.allclose(encoding[0, 4:, 0], encoding[0, 4:, -1])


def test_none_is_zero():
    encoding = NoPositionEncoding(8)(mask_of([(4, 6)]))
    assert torch.equal(encoding, torch.zeros(1, 8, 4, 6))


def test_names():
    kinds = {"sine": SinePositionEncoding, "learned": LearnedPositionEncoding}
    for name, kind in {**kinds, "none": NoPositionEncoding}.items():
        assert type(create_position_encoding(name, 8)) is kind
    with pytest.raises(ConfigError, match=r"POSITION_ENCODING='cosine' is unknown; use one of"):
        create_position_encoding("cosine", 8)
    with pytest.raises(ConfigError, match="channels % 4 == 0, got 6"):
        create_position_encoding("sine", 6)
    with pytest.raises(ConfigError, match="even width, got 7"):
        create_position_encoding("learned", 7)


def test_sine_waves():
    waves = sine_waves(torch.tensor([0.0, 2.0]), 4)
    expected = [[0, 1, 0, 1], [math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)]]
    assert torch.allclose(waves, torch.tensor(expected), atol=1e-6)
