"""Faults of Pascal VOC, LabelMe and YOLO, D40 to D55 of the catalog."""

import json

from tests.stress.faults.builders import (
    shape,
    voc_text,
    write_labelme,
    write_pictures,
    write_voc,
    write_yolo,
)
from tests.stress.faults.case import Catalog

catalog = Catalog()
add = catalog.add
FIX = {"policy": "fix"}


def voc(text=None, **options):
    return lambda folder: write_voc(folder, text, **options)


def voc_box(**changes):
    return voc(voc_text([changes]))


add("D40", "coordinates from 1", voc(), "note", "coordinates start at 1")
add("D40", "coordinates from 0", voc_box(xmin=0), "note", "coordinates start at 0")
add("D41", "wrong filename", voc(voc_text(filename="x.png")), "accept")
add("D41", "no image for stem or filename", voc(voc_text(filename="x.png"), stem="z"), "error",
    r'neither "z\.\*" nor the <filename> "x\.png"')  # fmt: skip
add("D41", "filename leads out", voc(voc_text(filename="../../etc/passwd"), stem="z"), "error",
    'neither "z')  # fmt: skip
add("D42", "size 0", voc(voc_text(size=(0, 0))), "note", "0x0 is not that of the image")
add("D42", "wrong size", voc(voc_text(size=(640, 480))), "note", "640x480 is not that")
add("D42", "no size", voc(voc_text().replace("<size>", "<s>").replace("</size>", "</s>")), "note",
    "is not that of the image")  # fmt: skip
for name in ("wbc", "WBC "):
    add("D43", f"{name!r} beside 'WBC'", voc_box(name=name), "error", "the same class")
add("D43", "'W-B-C' beside 'WBC'", voc_box(name="W-B-C"), "accept", "W-B-C 1, WBC 1")
add("D43", "unknown class", voc_box(name="Platelts"), "error", 'did you mean "Platelets"',
    class_names=("WBC", "Platelets"))  # fmt: skip
add("D43", "no name", voc_box(name=""), "error", "without a name")
add("D44", "xmin and xmax swapped", voc_box(xmin=25, xmax=5), "error", r"a\.xml: object\[0\].*swap")
add(
    "D44",
    "xmin and xmax swapped, to be fixed",
    voc_box(xmin=25, xmax=5),
    "repair",
    "swapped",
    **FIX,
)
add("D44", "no area", voc_box(xmin=5, xmax=5), "repair", r"a\.xml: object\[0\].*zero area")
add("D44", "fractions", voc_box(xmin=5.5, xmax=20.25), "accept")
for value in ("nan", "inf", "abc", "", "1e400", "1,5"):
    add("D44", f"xmin {value!r}", voc_box(xmin=value), "error", r"a\.xml: object\[0\].*bndbox")
add("D44", "no bndbox", voc(voc_text().replace("bndbox", "box")), "error", "needs four numbers")
add("D44", "object twice", voc(voc_text([{}, {}])), "repair", "exact duplicate")
add("D44", "no object", voc(voc_text([])), "accept")
add("D44", "difficult", voc_box(difficult=1), "repair", "kept as iscrowd=1")
LAUGHS = "".join(
    f'<!ENTITY l{n} "{("&l" + str(n - 1) + ";") * 10}">' if n else '<!ENTITY l0 "ha">'
    for n in range(9)
)
add("D45", "billion laughs",
    voc(f"<!DOCTYPE a [{LAUGHS}]>" + voc_text([{"name": "&l8;"}])), "error",
    r"a\.xml.*document type or entities")  # fmt: skip
add("D45", "quadratic blow-up",
    voc(f'<!DOCTYPE a [<!ENTITY a "{"a" * 5000}">]>' + voc_text([{"name": "&a;" * 5000}])), "error",
    "document type or entities")  # fmt: skip
for target in ("file:///etc/passwd", "http://127.0.0.1:9/x"):
    add("D46", f"entity from {target[:4]}",
        voc(f'<!DOCTYPE a [<!ENTITY x SYSTEM "{target}">]>' + voc_text([{"name": "&x;"}])), "error",
        "document type or entities")  # fmt: skip
declared = '<?xml version="1.0" encoding="{}"?>'
add("D47", "GBK", voc((declared.format("gb2312") + voc_text()).encode("gbk")), "accept")
add("D47", "unknown encoding", voc(declared.format("klingon") + voc_text()), "error", "klingon")
add("D47", "wrong encoding",
    voc((declared.format("utf-8") + voc_text([{"name": "\xe9"}])).encode("latin-1")), "error",
    r"a\.xml: cannot be decoded")  # fmt: skip
for title, text in (
    ("cut short", voc_text()[:150]),
    ("empty", ""),
    ("with a zero byte", voc_text().replace("WBC", "W\0C")),
    ("a web page", "<!DOCTYPE html><html><body></body></html>"),
    ("no annotation", "<other/>"),
    ("text", "hello"),
):
    add("D48", f"file is {title}", voc(text), "error", r"a\.xml")
add("D49", "200,000 deep", voc("<a>" * 200_000), "error", r"a\.xml")
add("D49", "40 deep", voc("<annotation>" + "<a>" * 40 + "</a>" * 40 + "</annotation>"), "error",
    "nested deeper")  # fmt: skip
add("D49", "over 1 MiB", voc(voc_text() + " " * (1 << 20)), "error", "exceed the limit")


UNCHANGED = object()


def labelme(shapes=None, shapes_are=UNCHANGED, **changes):
    def make(folder):
        write_labelme(folder, shapes, **changes)
        if shapes_are is not UNCHANGED:
            data = json.loads((folder / "a.json").read_text())
            (folder / "a.json").write_text(json.dumps({**data, "shapes": shapes_are}))
        return folder

    return make


add(
    "D50",
    "rectangle from any two opposite corners",
    labelme([shape(points=[[25, 5], [5, 30]])]),
    "accept",
)
add("D50", "rectangle of four points",
    labelme([shape(points=[[5, 5], [25, 5], [25, 30], [5, 30]])]), "accept")  # fmt: skip
add("D50", "circle", labelme([shape(shape_type="circle", points=[[20, 20], [25, 20]])]), "accept")
add("D50", "polygon",
    labelme([shape(shape_type="polygon", points=[[5, 5], [20, 6], [9, 20]])]),
    "accept")  # fmt: skip
add("D50", "mask", labelme([shape(shape_type="mask", mask="AAAA")]), "accept")
for kind in ("line", "point", "linestrip", "hexagon"):
    add("D50", kind, labelme([shape(), shape(shape_type=kind)]), "repair",
        rf"a\.json: shapes\[1\].*{kind} encloses nothing")  # fmt: skip
add("D50", "polygon of two points", labelme([shape(), shape(shape_type="polygon")]), "repair",
    "of 2 points encloses nothing")  # fmt: skip
add("D50", "no shape type", labelme([shape(shape_type=None)]), "repair", "of 2 points")
add("D51", "imageData null", labelme(), "accept")
add("D51", "stale size", labelme(imageHeight=9, imageWidth=9), "note", "stale")
add("D51", "imagePath with backslashes", labelme(imagePath="..\\x\\a.png"), "accept")
add("D51", "imagePath leads out", labelme(imagePath="../../../etc/passwd"), "accept")
add("D51", "no imagePath", labelme(imagePath="REMOVED"), "accept")


def labelme_without_image(folder):
    write_labelme(folder)
    (folder / "a.png").unlink()
    return folder


add("D51", "no image", labelme_without_image, "error", r"a\.json: neither its imagePath")
add("D51", "two files of one image", labelme(imagePath="b.png"), "error", "the same image as")
group = [shape(group_id=1), shape(group_id=1, points=[[20, 20], [40, 40]])]
add("D52", "one cell as two shapes", labelme(group), "repair", "union of 2 shapes")
add("D52", "group is a string", labelme([shape(group_id="x")]), "error", "group_id 'x' must be")
for title, value in (("null", None), ("a text", "x"), ("an object", {})):
    add("D52", f"shapes is {title}", labelme(shapes_are=value), "error", r'a\.json: "shapes" is')
add("D52", "shape without a label", labelme([shape(label=None)]), "error", r"shapes\[0\].*label")
add("D52", "label in two spellings", labelme([shape(label="neu")]), "error", "the same class")
for title, points in (
    ("NaN", [[float("nan"), 5], [25, 30]]),
    ("texts", [["5", "5"], ["9", "9"]]),
    ("three numbers", [[5, 5, 5], [9, 9, 9]]),
    ("null", None),
):
    add("D52", f"points are {title}", labelme([shape(points=points)]), "error",
        r"a\.json: shapes\[0\].*finite numbers")  # fmt: skip


def yolo(text=b"", after=None):
    return lambda folder: write_yolo(folder, text, after)


LINE = r"a\.txt:1: "
for title, text, answer in (
    ("values over 1", "0 1.5 0.5 0.2 0.2", "must lie in 0..1"),
    ("pixels", "0 32 24 10 10", "must lie in 0..1"),
    ("nan", "0 nan 0.5 0.2 0.2", "not a number"),
    ("inf", "0 inf 0.5 0.2 0.2", "not a number"),
    ("decimal commas", "0 0,5 0,5 0,2 0,2", "not a number"),
    ("four columns", "0 0.5 0.5 0.2", "4 columns"),
    ("six columns", "0 0.5 0.5 0.2 0.2 0.9", "6 columns"),
    ("unknown class", "7 0.5 0.5 0.2 0.2", "class 7 is unknown"),
    ("class -1", "-1 0.5 0.5 0.2 0.2", "whole number"),
    ("class 1.0", "1.0 0.5 0.5 0.2 0.2", "whole number"),
    ("class 1_0", "1_0 0.5 0.5 0.2 0.2", "whole number"),
    ("class 1e3", "1e3 0.5 0.5 0.2 0.2", "whole number"),
    ("negative size", "0 0.5 0.5 -0.2 0.2", "must lie in 0..1"),
    ("words", "hello", "1 columns"),
):
    case = "D54" if "_" in text or "e3" in text else "D53"
    add(case, title, yolo(text), "error", LINE + ".*" + answer)
add("D53", "no width", yolo("0 0.5 0.5 0 0.2"), "repair", LINE + ".*zero area")
add("D53", "line twice", yolo("0 0.5 0.5 0.2 0.2\n" * 2), "repair", r"a\.txt:2.*duplicate")
add("D53", "byte-order mark", yolo(b"\xef\xbb\xbf0 0.5 0.5 0.2 0.2"), "accept")
add("D53", "not UTF-8", yolo(b"0 0.5 0.5 0.2 0.2 \xff\xfe"), "error", r"a\.txt.*not UTF-8")
add("D53", "empty label file", yolo(""), "accept")
add("D53", "no label file", yolo("", lambda f: (f / "labels" / "a.txt").unlink()), "note",
    "1 images have no label file")  # fmt: skip
add("D53", "labels without an image", yolo("", lambda f: (f / "images" / "a.png").unlink()),
    "error", r"a\.txt.*no image of this name")  # fmt: skip
add("D53", "over 1 MiB", yolo(b" " * (2 << 20)), "error", r"a\.txt.*exceed the limit")
add("D53", "no images", yolo("", lambda f: [p.unlink() for p in (f / "images").iterdir()]), "error",
    "holds no image")  # fmt: skip
for text in ("names: !!python/object/apply:os.system [echo x]", "names: [a", "- a"):
    add("D53", f"data.yaml {text[:20]!r}",
        lambda folder, text=text: data_yaml(folder, text), "error", r"data\.yaml")  # fmt: skip


def data_yaml(folder, text):
    write_yolo(folder)
    (folder / "classes.txt").unlink()
    (folder / "data.yaml").write_text(text)
    return folder


def both_formats(folder):
    write_pictures(folder, ("a.png",))
    return folder / "x.docx"


add("D55", "no such path", both_formats, "error", "no such file or folder")
