"""Faults of texts, numbers, names and kinds of files in any format: D75 to D79, S13."""

import io
import json
import os
import zipfile

from tests.stress.faults.builders import (
    coco,
    picture,
    shape,
    voc_text,
    write_cells,
    write_coco,
    write_labelme,
    write_text_coco,
    write_voc,
    write_yolo,
)
from tests.stress.faults.case import Catalog

catalog = Catalog()
add = catalog.add


def entry(kind, **fields):
    """Makes a COCO dataset whose first entry of a kind has these fields."""
    return lambda folder: write_coco(folder, lambda data: data[kind][0].update(fields))


def voc(**box):
    return lambda folder: write_voc(folder, voc_text([box]))


# Lists and tables of any editor
TABLE = "file,label\r\nneutrophil/0.png,neu \r\nlymphocyte/0.png , lym\r\n"


def table(content):
    def make(folder):
        path = write_cells(folder) / "table.csv"
        path.write_bytes(content)
        return path

    return make


for title, content in (
    ("byte-order mark", b"\xef\xbb\xbf" + TABLE.encode()),
    ("UTF-16", TABLE.encode("utf-16")),
    ("line ends of old Macs", TABLE.replace("\r\n", "\r").encode()),
):
    add("D75", f"table: {title}, trailing blanks", table(content), "accept")
for title, content, answer in (
    ("UTF-16 without a mark", TABLE.encode("utf-16-le"), r"table\.csv:1: .*null byte"),
    ("Latin-1", TABLE.replace("neu ", "n\xe9u").encode("latin-1"), r"table\.csv.*not UTF-8"),
    ("column twice", TABLE.replace("file,label", "file,label,label").encode(), "the same name"),
    ("pages of an archive", b"PK\3\4\0\0", r"table\.csv"),
):
    add("D75", f"table: {title}", table(content), "error", answer)


def classes(content):
    return lambda folder: write_yolo(
        folder, after=lambda f: (f / "classes.txt").write_bytes(content)
    )


NAMES = "# two\r\nneutrophil \r\n\r\nlymphocyte\r\n"
add("D75", "classes.txt: UTF-16 with comments", classes(NAMES.encode("utf-16")), "accept",
    "neutrophil 1, lymphocyte 1")  # fmt: skip
add("D75", "classes.txt: Latin-1", classes(NAMES.replace("eu", "\xe9u").encode("latin-1")),
    "error", r"classes\.txt: byte .* not UTF-8")  # fmt: skip
add("D75", "labels: UTF-16", lambda f: write_yolo(f, "0 0.5 0.5 0.2 0.2\r\n".encode("utf-16")),
    "accept")  # fmt: skip

# Ids and numbers
for value in (10**30, -(10**30), 1.0, "1", True, None, [1], 2**63):
    for kind in ("images", "categories", "annotations"):
        add("D76", f"id {value!r:.12} in {kind}", entry(kind, id=value), "error",
            rf"{kind}\[0\].*integer( id)? of 64 bits")  # fmt: skip
add("D76", "image id -1", lambda f: write_coco(f, negative), "accept")
add("D76", "category_id 10**30", entry("annotations", category_id=10**30), "error",
    r"annotations\[0\].*category_id 1000.*is unknown")  # fmt: skip
add("D76", "image_id 10**30", entry("annotations", image_id=10**30), "error",
    r"annotations\[0\].*image_id 1000.*no image")  # fmt: skip
add("D76", "width 10**30", entry("images", width=10**30), "repair", "taken from the file")
add("D76", "area 10**400", entry("annotations", area=10**400), "accept")


def negative(data):
    data["images"][0]["id"] = data["annotations"][0]["image_id"] = -1
    data["annotations"][1]["image_id"] = -1


LONG = json.dumps(coco()).replace('"id": 2', '"id": ' + "7" * 5000, 1)
add("D76", "integer of 5,000 digits", lambda f: write_text_coco(f, LONG), "error",
    r"train\.json:1:\d+: an integer of 5,000 digits")  # fmt: skip
for value in ("1_0", "\u0661", "0x10", "9" * 5000, "1e999"):
    add("D76", f"xmin {value:.12}", voc(xmin=value), "error", r"a\.xml: object\[0\].*bndbox")
for value in ("1e400", "\u0660.5", "0_1", "0x1", "1" * 5000):
    line = f"0 {value} 0.5 0.2 0.2"
    add("D76", f"x center {value:.12}", lambda f, line=line: write_yolo(f, line), "error",
        r"a\.txt:1: .*(not a number|must lie)")  # fmt: skip
add("D76", "class of 5,000 digits", lambda f: write_yolo(f, "1" * 5000 + " .5 .5 .2 .2"), "error",
    r"a\.txt:1: class .*whole number")  # fmt: skip

# Names
for title, name in (
    ("line break", "neu\ntrophil"),
    ("tab", "neu\ttrophil"),
    ("escape sequence", "\x1b[2Jneutrophil"),
    ("text that runs to the left", "neu\u202etrophil"),
    ("separator of lines", "neu\u2028trophil"),
    ("300 characters", "n" * 300),
):
    answer = r"class name .*(breaks lines|200 are allowed)"
    add("D77", f"COCO class with {title}", entry("categories", name=name), "error", answer)
    add("D77", f"LabelMe class with {title}",
        lambda f, name=name: write_labelme(f, [shape(label=name)]), "error", answer)  # fmt: skip
add("D77", "VOC class with a line break", voc(name="\nWBC\n"), "error", "breaks lines")
add("D77", "class folder with a line break", lambda f: write_cells(f, {"neu\nt": 2, "lym": 2}),
    "error", "breaks lines")  # fmt: skip
add("D77", "table: class with a line break",
    table(b'file,label\nneutrophil/0.png,"neu\ntrophil"\n'), "error", "breaks lines")  # fmt: skip
add("D77", "class name of a joined script", entry("categories", name="\u0645\u06cc\u200c\u06a9"),
    "accept")  # fmt: skip


add("D77", "LabelMe imagePath of 5,000 characters",
    lambda f: write_labelme(f, imagePath="x" * 5000), "accept")  # fmt: skip
add("D77", "VOC filename of 5,000 characters",
    lambda f: write_voc(f, voc_text(filename="x" * 5000), stem="z"), "error",
    r'z\.xml: neither "z')  # fmt: skip
add("D77", "COCO file_name of 100,000 characters", entry("images", file_name="x" * 100_000),
    "error", r"images\[0\].*has 100,000 characters")  # fmt: skip
add("D77", "path of 5,000 characters", lambda f: f / ("x" * 5000), "error", "no such file")
for value in (["polygon"], 5, {"a": 1}):
    add("D77", f"LabelMe shape_type {value!r}",
        lambda f, value=value: write_labelme(f, [shape(shape_type=value)]), "error",
        r"a\.json: shapes\[0\].*must be a text")  # fmt: skip
for encoding in ("undefined", "hex", "unicode_escape"):
    text = f'<?xml version="1.0" encoding="{encoding}"?>{voc_text()}<!-- \\ud800 -->'
    add("D77", f"VOC in the encoding {encoding}", lambda f, text=text: write_voc(f, text), "error",
        rf"a\.xml: cannot be decoded as {encoding}")  # fmt: skip


def yolo_names(text):
    def make(folder):
        write_yolo(folder)
        (folder / "classes.txt").unlink()
        (folder / "data.yaml").write_text(f"names: {text}\n")
        return folder

    return make


for text in ("5", "ab", "[a, null]", "[[a], b]", "{a: b, 1: c}", "{0: a, 2: b}", "{1: a, 2: b}"):
    add("D77", f"data.yaml: names: {text}", yolo_names(text), "error",
        r"data\.yaml: names are")  # fmt: skip
add("D77", "data.yaml: names in another order", yolo_names("{1: WBC, 0: RBC}"), "accept",
    "RBC 1, WBC 1")  # fmt: skip


# One file in several spellings
def spelled(name):
    def change(data):
        data["images"][1]["file_name"] = name

    return lambda folder: write_coco(folder, change, lambda f: (f / "images" / "sub").mkdir())


for name in ("./a.png", "sub/../a.png", "sub/./../a.png"):
    add("D78", f"a.png and {name}", spelled(name), "note", "is the same file as")
add("D78", "table: a.png and ./a.png",
    table(b"file,label\nneutrophil/0.png,neu\n./neutrophil/0.png,neu\n"), "error",
    "listed 2 times")  # fmt: skip


# Kinds of files
def beside(write, make):
    """Adds an entry to the folder that a writer returns."""

    def build(folder):
        root = write(folder)
        make(root)
        return root

    return build


for title, make in (
    ("pipe", os.mkfifo),
    ("folder", os.mkdir),
    ("link to itself", lambda path: path.symlink_to(path)),
):
    add("D79", f"YOLO labels: {title}",
        beside(write_yolo, lambda f, make=make: make(f / "labels" / "c.txt")), "error",
        r"c\.txt.*no image of this name")  # fmt: skip
    add("D79", f"YOLO images: {title}",
        beside(write_yolo, lambda f, make=make: make(f / "images" / "c.png")),
        "accept")  # fmt: skip
    add("D79", f"class folder: {title}",
        beside(write_cells, lambda f, make=make: make(f / "neutrophil" / "c.png")),
        "error" if title == "folder" else "note",
        "a folder in a class|ignored: .*c.png: (pipe|link)")  # fmt: skip
    add("D79", f"path is a {title}",
        lambda f, make=make: (make(f / "x.json"), f / "x.json")[1], "error",
        r"x\.json.*(pipe|no such file|holds no)|no image")  # fmt: skip
add("D79", "labels of an image: pipe", beside(
    write_yolo, lambda f: ((f / "labels" / "a.txt").unlink(), os.mkfifo(f / "labels" / "a.txt"))),
    "error", r"a\.txt.*is not a file")  # fmt: skip


# Members of one name in a zip
def archive(*names):
    def make(folder):
        with zipfile.ZipFile(folder / "cells.zip", "w") as target:
            for seed, name in enumerate(names):
                stream = io.BytesIO()
                picture(seed, 40, 40).save(stream, "PNG")
                target.writestr(name, stream.getvalue())
        return folder / "cells.zip"

    return make


for names in (
    ("neu/0.png", "neu/0.png"),
    ("neu/0.png", "neu/./0.png"),
    ("neu/0.png", "neu//0.png"),
    ("neu/0.png", "neu/0.png/1.png"),
):
    add("S13", f"zip: {' and '.join(names)}", archive(*names, "lym/0.png"), "error",
        r"cells\.zip.*\n.*neu/0\.png.*(2 members|a file, too)")  # fmt: skip
add("S13", "zip: names that differ in case", archive("neu/a.png", "neu/A.png", "lym/0.png"),
    "accept")  # fmt: skip
