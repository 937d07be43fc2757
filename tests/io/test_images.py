import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from wbcnets.errors import DataError
from wbcnets.io.images import image_size, image_to_rgb, read_image


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_orientation_is_applied_and_the_header_agrees(tmp_path, noise, orientation, suffix):
    path = tmp_path / f"x.{suffix}"
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}
    noise.save(path, exif=exif(orientation), **options.get(suffix, {}))
    upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a),
    }[orientation](np.asarray(noise))
    found = read_image(path)
    assert image_size(path) == (found.shape[1], found.shape[0])
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).max() <= 12


def test_16_bit_gray_is_scaled(tmp_path):
    values = np.linspace(0, 65535, 64 * 4).reshape(4, 64).astype(np.uint16)
    for name in ("x.png", "x.tif"):
        Image.fromarray(values).save(tmp_path / name)
        found = read_image(tmp_path / name)
        assert found.shape == (4, 64, 3)
        np.testing.assert_allclose(found[..., 0], values / 257, atol=0.51)


def test_12_bit_tiff_is_scaled_by_its_declared_depth(tmp_path):
    # Two 12-bit values in three bytes: 0xFFF and 0x800.
    entries = [
        (256, 3, 1, 2),
        (257, 3, 1, 1),
        (258, 3, 1, 12),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 8 + 2 + 9 * 12 + 4),
        (277, 3, 1, 1),
        (278, 3, 1, 1),
        (279, 4, 1, 3),
    ]
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", *entry) for entry in entries) + b"\0\0\0\0"
    path = tmp_path / "x.tif"
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + directory + bytes([0xFF, 0xF8, 0x00]))
    assert read_image(path)[0, :, 0].tolist() == [255, 128]


def gray_tiff(path, values, **tags):
    names = {"largest": 341, "maximum": 281, "description": 270}
    found = Image.fromarray(values.astype(np.uint16))
    found.save(path, tiffinfo={names[name]: value for name, value in tags.items()})


TWELVE = np.linspace(0, 4095, 64 * 4).reshape(4, 64).round()
IMAGEJ = "ImageJ=1.53k\nunit=um\nmin=0.0\nmax={}\n"


@pytest.mark.parametrize(
    "tags",
    [{"largest": 4095}, {"maximum": 4095}, {"description": IMAGEJ.format("4095.0")}],
    ids=lambda tags: next(iter(tags)),
)
def test_12_bits_in_16_are_scaled_by_the_declared_maximum(tmp_path, tags):
    gray_tiff(tmp_path / "x.tif", TWELVE, **tags)
    found = read_image(tmp_path / "x.tif")
    np.testing.assert_allclose(found[..., 0], TWELVE * 255 / 4095, atol=0.51)


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("name", ["x.png", "x.tif", "color.png", "color.tif", "layered.png"])
def test_fewer_bits_in_16_are_refused_because_they_would_be_nearly_black(tmp_path, bits, name):
    values = np.linspace(0, 2**bits - 1, 64 * 4).reshape(4, 64).astype(np.uint16)
    if name.startswith("color"):
        values = np.repeat(values[:, :, None], 3, axis=2)
    elif name.startswith("layered"):
        opaque = np.full_like(values, 65535)
        values = np.dstack([values, values, values, opaque])
    cv2.imwrite(str(tmp_path / name), values)
    with pytest.raises(DataError, match=rf"{name}.* looks like {bits} bits .*multiply") as caught:
        read_image(tmp_path / name)
    assert ("SMaxSampleValue" in str(caught.value)) == name.startswith("x.")
    cv2.imwrite(str(tmp_path / name), values.astype(np.uint16) << (16 - bits))
    assert read_image(tmp_path / name)[..., 0].max() > 250


def test_limits_of_a_display_are_no_depth(tmp_path):
    values = np.linspace(0, 65535, 256).reshape(4, 64)
    gray_tiff(tmp_path / "x.tif", values, description=IMAGEJ.format("3120.0"))
    assert read_image(tmp_path / "x.tif").max() == 255
    gray_tiff(tmp_path / "x.tif", values, largest=4095)
    with pytest.raises(DataError, match=r"values up to 65,535, but declares 12 bits"):
        read_image(tmp_path / "x.tif")


def test_black_and_dim_images_are_images(tmp_path):
    for value, expected in ((0, 0), (20_000, 78)):
        Image.fromarray(np.full((4, 4), value, np.uint16)).save(tmp_path / "x.png")
        assert read_image(tmp_path / "x.png").max() == expected


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white(tmp_path, mode):
    path = tmp_path / "x.png"
    image = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    image.putpixel((0, 0), (10, 10, 10, 255))
    image.convert(mode).save(path)
    found = read_image(path)
    assert found[4, 4].tolist() == [255, 255, 255]
    assert np.abs(found[0, 0].astype(int) - 10).max() <= 2


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(tmp_path, noise, mode):
    path = tmp_path / "x.tif"
    noise.convert(mode).save(path)
    assert read_image(path).shape == (30, 40, 3)


def test_content_decides_not_the_suffix(tmp_path, noise):
    path = tmp_path / "x.png"
    noise.save(path, format="JPEG")
    assert read_image(path).shape == (30, 40, 3)


def png_with_size(width, height):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 9))
        + chunk(b"IEND", b"")
    )


def bad_files(noise):
    stream = io.BytesIO()
    noise.save(stream, "PNG")
    png = stream.getvalue()
    stream = io.BytesIO()
    noise.save(stream, "JPEG")
    jpeg = stream.getvalue()
    stream = io.BytesIO()
    noise.save(stream, "TIFF", save_all=True, append_images=[noise])
    pages = stream.getvalue()
    stream = io.BytesIO()
    noise.convert("F").save(stream, "TIFF")
    floats = stream.getvalue()
    stream = io.BytesIO()
    noise.save(stream, "GIF")
    return {
        "empty": (b"", "cannot be read"),
        "html": (b"<html></html>", "cannot be read"),
        "gif": (stream.getvalue(), "cannot be read"),
        "truncated": (jpeg[:-40], "cannot be read"),
        "corrupt": (png[:60] + bytes(20) + png[80:], "cannot be read"),
        "size lie": (png_with_size(4000, 4000), "cannot be read"),
        "bomb": (png_with_size(60000, 60000), "cannot be read|exceed"),
        "too large": (png_with_size(8000, 8000), "64,000,000 pixels exceed"),
        "pages": (pages, "2 pages"),
        "float": (floats, "floating-point"),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "empty",
        "html",
        "gif",
        "truncated",
        "corrupt",
        "size lie",
        "bomb",
        "too large",
        "pages",
        "float",
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, noise, kind):
    content, reason = bad_files(noise)[kind]
    path = tmp_path / "smear.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        read_image(path)
    assert str(path) in str(caught.value)


def test_missing_files_and_folders_are_refused(tmp_path):
    for path, reason in ((tmp_path / "x.png", "does not exist"), (tmp_path, "is not a file")):
        for reader in (read_image, image_size):
            with pytest.raises(DataError, match=reason):
                reader(path)


def test_mutated_files_raise_data_error_or_give_an_image(tmp_path, noise):
    path = tmp_path / "x"
    random = np.random.default_rng(1)
    outcomes = {"image": 0, "refused": 0}
    for name in ("JPEG", "PNG", "TIFF", "WEBP", "BMP"):
        stream = io.BytesIO()
        noise.save(stream, name)
        for _ in range(60):
            data = bytearray(stream.getvalue())
            for place in random.integers(0, len(data), 4):
                data[place] = random.integers(0, 256)
            path.write_bytes(bytes(data))
            try:
                image = read_image(path)
            except DataError:
                outcomes["refused"] += 1
            else:
                assert image.dtype == np.uint8
                assert image.ndim == 3
                outcomes["image"] += 1
    assert min(outcomes.values()) > 20


def test_images_made_in_memory_are_read_as_files_are(noise):
    assert np.array_equal(image_to_rgb(noise, "noise"), np.asarray(noise))
    deep = Image.fromarray(np.full((4, 4), 65535, np.uint16))
    assert image_to_rgb(deep, "deep").min() == 255
    with pytest.raises(DataError, match=r"^deep: .*looks like 12 bits"):
        image_to_rgb(Image.fromarray(np.full((4, 4), 4000, np.uint16)), "deep")
