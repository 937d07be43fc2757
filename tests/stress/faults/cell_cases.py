"""Faults of class folders, tables, archives, splits and images: D60 to D74, I, S13, S19."""

import contextlib
import csv
import io
import json
import os
import stat
import struct
import zipfile
import zlib

import cv2
import numpy as np
from PIL import Image

from tests.stress.faults.builders import picture, write_cells, write_coco
from tests.stress.faults.case import Catalog
from wbcnets.errors import DataError
from wbcnets.io.images import image_size

catalog = Catalog()
add = catalog.add


def cells(layout=None, after=None):
    return lambda folder: write_cells(folder, layout, after)


TWO_SPLITS = {f"{split}/{name}": 3 for split in ("train", "val") for name in ("neu", "lym")}
add("D60", "val lacks a class", cells({"train/neu": 3, "train/lym": 3, "val/neu": 2}), "accept")
add("D60", "unknown class", cells({"neu": 3, "bas": 3}), "error", '"bas" is no class',
    class_names=("neu", "lym"))  # fmt: skip


def system_folders(root):
    for name in ("__MACOSX", ".ipynb_checkpoints", ".git"):
        (root / name).mkdir()
        picture(1).save(root / name / "x.png")


add(
    "D61",
    "folders of the operating system",
    cells(None, system_folders),
    "note",
    "ignored: 3:.*__MACOSX",
)
add(
    "D62", "classes named by numbers", cells({"1": 2, "2": 2, "10": 2}), "accept", r"1 2, 2 2, 10 2"
)


def other_suffixes(root):
    picture(1).save(root / "neutrophil" / "x.gif")
    picture(2).save(root / "neutrophil" / "y.tif")
    (root / "neutrophil" / "z.txt").write_text("x")


add("D63", "files that are no images", cells(None, other_suffixes), "note",
    r"ignored: 2:.*x\.gif: no image by its suffix")  # fmt: skip
add("D64", "folder in a class", cells({"neu": 2, "lym/small": 2}), "error", "small.*folder")
add("D64", "a split beside classes", cells({"neu": 2, "train": 2}), "error", "split beside classes")
add("D65", "image outside the class folders",
    cells(None, lambda root: picture(1).save(root / "x.png")), "error",
    r"x\.png: lies outside the class folders")  # fmt: skip
add("D66", "empty class", cells(None, lambda root: (root / "bas").mkdir()), "note",
    "classes without images.*bas")  # fmt: skip
add("D67", "class in two spellings", cells({"NEU": 2, "neu ": 2, "lym": 2}), "error", "same class")
add("D68", "link to itself", cells(None, lambda root: os.symlink(root, root / "loop")), "note",
    "loop: link")  # fmt: skip
add("D68", "linked image",
    cells(None, lambda r: os.symlink(r / "neutrophil" / "0.png", r / "lymphocyte" / "x.png")),
    "note", r"x\.png: link")  # fmt: skip


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


add("D69", "broken image", cells(None, lambda root: cut(root / "neutrophil" / "0.png")), "error",
    r"neutrophil/0\.png.*cannot be read")  # fmt: skip
add("D69", "broken image, to be repaired",
    cells(None, lambda root: cut(root / "neutrophil" / "0.png")), "repair", r"dropped: .*0\.png",
    policy="skip")  # fmt: skip
add("D70", "bomb", cells(None, lambda root: bomb(root / "neutrophil" / "0.png")), "error",
    r"0\.png.*exceed the limit")  # fmt: skip


def same_in_both(root, size=40, quality=None):
    image = picture(7, size, size)
    image.save(root / "train" / "neu" / "x.png")
    if quality is None:
        image.save(root / "val" / "neu" / "y.bmp")
    else:
        image.save(root / "val" / "neu" / "y.jpg", quality=quality)


add("D71", "image in two splits", cells(TWO_SPLITS, same_in_both), "error",
    r"leak: train/neu/x\.png .* equal pixels")  # fmt: skip
add("D71", "recompressed image in two splits", cells(TWO_SPLITS, lambda r: same_in_both(r, 40, 60)),
    "note", r"perhaps a leak: .*x\.png.*correlation")  # fmt: skip
add("D71", "image in two classes",
    cells(None, lambda r: Image.open(r / "neutrophil" / "0.png").save(r / "lymphocyte" / "x.bmp")),
    "error", "same image in two classes")  # fmt: skip
add("D71", "image in two classes, to be repaired",
    cells(None, lambda r: Image.open(r / "neutrophil" / "0.png").save(r / "lymphocyte" / "x.bmp")),
    "repair", "the same image is in the classes", policy="skip")  # fmt: skip
add("D71", "image twice in a class",
    cells(None, lambda r: Image.open(r / "neutrophil" / "0.png").save(r / "neutrophil" / "x.bmp")),
    "note", "duplicates within a class")  # fmt: skip


def patients(root):
    picture(8).save(root / "train" / "neu" / "P7_1.png")
    picture(9).save(root / "val" / "neu" / "P7_2.png")


add("D72", "patient in two splits", cells(TWO_SPLITS, patients), "error",
    'patient or slide "P7" is in', group_pattern=r"(?P<group>P[0-9]+)_")  # fmt: skip
add("D72", "patients unknown", cells(TWO_SPLITS), "note", "patients or slides: unknown")
add("D73", "augmented copies in two splits",
    cells(TWO_SPLITS, lambda r: shifted_copy(r)), "note", "perhaps a leak")  # fmt: skip


def shifted_copy(root):
    image = picture(7, 60, 60)
    image.crop((0, 0, 56, 56)).save(root / "train" / "neu" / "x.png")
    image.crop((2, 1, 58, 57)).save(root / "val" / "neu" / "y.png")


add("D74", "empty folder", cells({}), "error", "no image in it")
add("D74", "fewer images than a batch", cells({"train/neu": 1, "train/lym": 1, "val/neu": 1}),
    "error", "batch_size=64 is more than the 2", reader="classifier")  # fmt: skip
add("D74", "class without training images",
    cells({"train/neu": 40, "train/lym": 40, "val/neu": 2, "val/bas": 2}), "error",
    "no training image of bas", reader="classifier")  # fmt: skip
add("D71", "image in two splits, at training",
    cells(TWO_SPLITS, same_in_both), "error", "equal pixels", reader="classifier")  # fmt: skip


# Tables
def table(rows, columns=("file", "label", "split", "group")):
    def make(folder):
        root = write_cells(folder)
        stream = io.StringIO()
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)
        (root / "table.csv").write_text(stream.getvalue())
        return root / "table.csv"

    return make


GOOD = ("neutrophil/0.png", "neu", "", "")
for title, row, answer in (
    ("missing file", ("x.png", "neu", "", ""), r"line 3: x\.png: does not exist"),
    ("absolute path", ("/etc/passwd", "neu", "", ""), "is absolute"),
    ("path that leads out", ("../cells/neutrophil/1.png", "neu", "", ""), "leads out"),
    ("backslash", ("neutrophil\\1.png", "neu", "", ""), "backslash"),
    ("empty path", ("", "neu", "", ""), "path is empty"),
    ("empty label", ("neutrophil/1.png", "", "", ""), "label is empty"),
    ("too many cells", ("neutrophil/1.png", "neu", "", "", "x"), "more cells"),
    ("file twice", ("neutrophil/0.png", "lym", "", ""), "listed 2 times, as lym, neu"),
):
    add("D65", f"table: {title}", table([GOOD, row]), "error", answer)
add("D65", "table: no label column", table([("a", "b")], ("file", "class")), "error", "columns")
add("D65", "table: no rows", table([]), "error", "no row")


# Archives and arrays
def archive(*entries):
    def make(folder):
        path = folder / "cells.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
            stream = io.BytesIO()
            picture(3, 40, 40).save(stream, "PNG")
            out.writestr("neu/0.png", stream.getvalue())
            for name, content in entries:
                out.writestr(name, content)
        return path

    return make


def link_entry():
    entry = zipfile.ZipInfo("neu/link.png")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


for title, entry, answer in (
    ("..", ("../x.png", b"x"), "leads out of the folder"),
    ("absolute path", ("/tmp/x.png", b"x"), "leads out of the folder"),
    ("link", (link_entry(), b"/etc/passwd"), "symbolic link"),
    ("bomb", ("neu/1.png", b"\0" * (64 << 20)), "unpacks to"),
):
    add("S13", f"zip: {title}", archive(entry), "error", answer, reader="command")
add("S13", "zip: cut short", lambda f: cut_archive(f), "error", r"cells\.zip", reader="command")


def cut_archive(folder):
    path = archive()(folder)
    cut(path)
    return path


def object_array(folder):
    np.savez(folder / "x.npz", train_images=np.array([print], dtype=object))
    return folder / "x.npz"


add("S19", "npz with objects", object_array, "error", r"x\.npz", reader="medmnist")


# Images, in a set of boxes
def with_image(write, name="a.png"):
    """Makes a COCO dataset whose first image ``write(path)`` writes; the JSON gets its size."""

    def make(folder):
        path = write_coco(folder)
        (folder / "images" / "a.png").unlink()
        write(folder / "images" / name)
        data = json.loads(path.read_text())
        entry = data["images"][0]
        entry["file_name"] = name
        with contextlib.suppress(DataError):
            entry["width"], entry["height"] = image_size(folder / "images" / name)
        path.write_text(json.dumps(data))
        return path

    return make


def bomb(path, side=10_000):
    """Writes a small file of 100 million pixels."""
    row = b"\0" * (1 + side)
    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    path.write_bytes(png((side, side, 8, 0, 0, 0, 0), pixels))


def png(header, pixels):
    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )  # fmt: skip

    head = struct.pack(">IIBBBBB", *header)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def corrupt_pixels(path):
    raw = bytearray(png((64, 48, 8, 2, 0, 0, 0), zlib.compress(b"\x07" * (193 * 48))))
    raw[50] ^= 0xFF
    path.write_bytes(raw)


def rotated(path):
    image = picture(0)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif)


def sixteen_bit(path, bits=16):
    values = np.linspace(0, 2**bits - 1, 48 * 64).reshape(48, 64).astype(np.uint16)
    Image.fromarray(values).save(path)


def few_bits(path, bits=12, color=False, **tags):
    """Writes 16-bit values of which only the lower ones are used."""
    values = np.linspace(0, 2**bits - 1, 48 * 64).reshape(48, 64).astype(np.uint16)
    if color:
        cv2.imwrite(str(path), np.repeat(values[:, :, None], 3, axis=2))
    else:
        Image.fromarray(values).save(path, **tags)


def pages(path, **options):
    pictures = [picture(number) for number in range(3)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], **options)


def truncated(path, fraction):
    stream = io.BytesIO()
    picture(0).save(stream, "JPEG")
    raw = stream.getvalue()
    path.write_bytes(raw[: int(len(raw) * fraction)] if fraction < 1 else raw[:-2])


def transparent(path):
    image = picture(0).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(path)


UNREADABLE = r"a\.\w+.*cannot be read"
for case, title, name, write, answer, text in (
    ("I01", "rotated by EXIF", "a.jpg", rotated, "note", "turned by EXIF"),
    ("I02", "CMYK", "a.jpg", lambda p: picture(0).convert("CMYK").save(p), "note", "CMYK made RGB"),
    ("I03", "16-bit gray PNG", "a.png", sixteen_bit, "note", "16-bit gray scaled"),
    ("I03", "16-bit gray TIFF", "a.tif", sixteen_bit, "note", "16-bit gray scaled"),
    ("I03", "12 bits in a 16-bit TIFF", "a.tif", few_bits, "error", r"a\.tif.*looks like 12 bits"),
    ("I03", "14 bits in a 16-bit PNG", "a.png", lambda p: few_bits(p, 14), "error",
     r"a\.png.*looks like 14 bits"),
    ("I03", "10 bits in a 16-bit color PNG", "a.png", lambda p: few_bits(p, 10, color=True),
     "error", r"a\.png.*looks like 10 bits"),
    ("I03", "12 bits in a 16-bit TIFF that says so", "a.tif",
     lambda p: few_bits(p, tiffinfo={341: 4095}), "note", "16-bit gray scaled"),
    ("I03", "16 bits in a TIFF that says 12", "a.tif", lambda p: few_bits(p, 16,
     tiffinfo={341: 4095}), "error", r"a\.tif.*declares 12 bits"),
    ("I04", "floating-point TIFF", "a.tif",
     lambda p: Image.fromarray(np.random.rand(48, 64).astype(np.float32)).save(p), "error",
     "floating-point values"),
    ("I05", "transparency", "a.png", transparent, "note", "transparency put on white"),
    ("I05", "palette", "a.png", lambda p: picture(0).convert("P").save(p), "note", "palette"),
    ("I05", "one bit", "a.png", lambda p: picture(0).convert("1").save(p), "note", "black and whi"),
    ("I05", "gray", "a.png", lambda p: picture(0).convert("L").save(p), "note", "gray made RGB"),
    ("I06", "100 million pixels", "a.png", bomb, "error", r"a\.png: 10000x10000 .* exceed the lim"),
    ("I07", "header of 60,000 px, no pixels", "a.png",
     lambda p: p.write_bytes(png((60_000, 60_000, 8, 2, 0, 0, 0), b"")), "error", "exceed"),
    ("I07", "header of 5,000 px, no pixels", "a.png",
     lambda p: p.write_bytes(png((5_000, 5_000, 8, 2, 0, 0, 0), b"")), "error", UNREADABLE),
    ("I08", "corrupt pixels", "a.png", corrupt_pixels, "error", UNREADABLE),
    ("I09", "JPEG cut in half", "a.jpg", lambda p: truncated(p, 0.5), "error", UNREADABLE),
    ("I09", "JPEG without its last two bytes", "a.jpg", lambda p: truncated(p, 1), "error",
     UNREADABLE),
    ("I10", "empty file", "a.png", lambda p: p.write_bytes(b""), "error", UNREADABLE),
    ("I10", "web page", "a.jpg", lambda p: p.write_text("<html></html>"), "error", UNREADABLE),
    ("I10", "Git LFS pointer", "a.jpg",
     lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "error", UNREADABLE),
    ("I10", "pipe", "a.png", os.mkfifo, "error", r"a\.png.*is not a file"),
    ("I10", "folder", "a.png", os.mkdir, "error", r"a\.png.*is not a file"),
    ("I10", "link to itself", "a.png", lambda p: p.symlink_to(p), "error", r"a\.png.*resolved"),
    ("I11", "TIFF of three pages", "a.tif", pages, "error", "holds 3 pages"),
    ("I11", "GIF", "a.gif", lambda p: picture(0).save(p), "error", r"a\.gif.*cannot be read"),
    ("I11", "animated WebP", "a.webp", pages, "error", "holds 3 pages"),
    ("I12", "PNG named .jpg", "a.jpg", lambda p: picture(0).save(p, "PNG"), "accept", ""),
    ("I12", "bytes after the end", "a.png",
     lambda p: (picture(0).save(p), p.write_bytes(p.read_bytes() + b"junk" * 50)), "accept", ""),
    ("I13", "Chinese name", "\u767d\u7ec6\u80de.png", lambda p: picture(0).save(p), "accept", ""),
    ("I13", "name with spaces and quotes", "a 'b' \"c\".png", lambda p: picture(0).save(p),
     "accept", ""),
    ("I14", "one pixel wide", "a.png", lambda p: picture(0, 1, 64).save(p), "note",
     "smaller than 16 px"),
):  # fmt: skip
    make = with_image(write, name)
    if case == "I14" or "one pixel" in title:

        def make(folder, write=write, name=name):  # boxes that fit such an image
            path = with_image(write, name)(folder)
            path.write_text(path.read_text().replace("[5, 5, 20, 20]", "[0, 5, 1, 20]")
                            .replace("[30, 10, 15, 22]", "[0, 30, 1, 9]"))  # fmt: skip
            return path

    add(case, title, make, answer, text)
