"""Faults of COCO's JSON, D01 to D34 of the catalog."""

import json
import os
from functools import partial

from tests.stress.faults.builders import HEIGHT, WIDTH, coco, picture, write_coco, write_text_coco
from tests.stress.faults.case import Catalog

catalog = Catalog()
NAMES_ITEM = r'train\.json: annotations\[0\] \(id=1, image "a\.png"\).*'


def with_box(box, **fields):
    """Replaces the box of the first annotation."""

    def change(data):
        data["annotations"][0].update(bbox=box, **fields)

    return lambda folder: write_coco(folder, change)


def changed(change, after=None):
    return lambda folder: write_coco(folder, change, after)


def first_entry(kind, **fields):
    """Changes fields of the first image or annotation; the value REMOVED deletes one."""

    def change(data):
        entry = data[kind][0]
        entry.update(fields)
        for key in [key for key, value in fields.items() if value == "REMOVED"]:
            del entry[key]

    return changed(change)


annotation = partial(first_entry, "annotations")
image = partial(first_entry, "images")
add = catalog.add
FIX = {"policy": "fix"}
# Boxes
for title, box in (("width 0", [5, 5, 0, 9]), ("height 0", [5, 5, 9, 0]), ("both 0", [5, 5, 0, 0])):
    add("D01", title, with_box(box), "repair", NAMES_ITEM + "zero area")
for title, box in (("width", [25, 5, -9, 9]), ("height", [5, 25, 9, -9])):
    add("D02", f"negative {title}", with_box(box), "error", NAMES_ITEM + "negative size.*swap")
add("D02", "negative size, to be fixed", with_box([25, 5, -9, 9]), "repair", "swapped", **FIX)
for title, box in (
    ("right", [WIDTH + 5, 5, 9, 9]),
    ("left", [-20, 5, 9, 9]),
    ("below", [5, HEIGHT + 2, 9, 9]),
    ("above", [5, -30, 9, 9]),
):
    add("D03", f"outside the image, {title}", with_box(box), "repair", NAMES_ITEM + "lies outside")
add("D04", "1 px over the border", with_box([WIDTH - 9, 5, 10, 9]), "repair", "by 1 px: clipped")
add("D04", "1 px before the border", with_box([-1, 5, 10, 9]), "repair", "clipped")
add("D04", "10 px over the border", with_box([WIDTH - 9, 5, 19, 9]), "error", "by 10 px.*correct")
add("D04", "10 px before the border", with_box([-10, 5, 30, 9]), "error", "by 10 px.*correct")
add("D04", "10 px over, to be fixed", with_box([WIDTH - 9, 5, 19, 9]), "repair", "clipped", **FIX)


def xyxy_boxes(data):
    for entry in data["annotations"]:
        x, y, w, h = entry["bbox"]
        entry["bbox"] = [x + 20, y + 10, min(x + w + 25, WIDTH), min(y + h + 14, HEIGHT)]


add("D05", "xyxy boxes", changed(xyxy_boxes), "error", r"look like \[x1, y1, x2, y2\]")
add(
    "D06",
    "boxes in fractions of the image",
    with_box([0.1, 0.1, 0.5, 0.5]),
    "error",
    "looks normalized",
)
for number in ("NaN", "Infinity", "-Infinity", "1e400"):
    text = json.dumps(coco()).replace("[5, 5, 20, 20]", f"[{number}, 5, 20, 20]")
    case = "D07" if number == "NaN" else "D08"
    make = lambda folder, text=text: write_text_coco(folder, text)  # noqa: E731
    add(case, f"{number} in a box", make, "error", NAMES_ITEM + "not finite")
for title, box in (
    ("texts", ["5", "5", "9", "9"]),
    ("three numbers", [5, 5, 9]),
    ("five numbers", [5, 5, 9, 9, 9]),
    ("null", None),
    ("empty", []),
    ("a list in it", [[5, 5], [9, 9]]),
    ("true in it", [True, 5, 9, 9]),
    ("a text", "5 5 9 9"),
    ("an object", {"x": 5}),
    ("an integer of 400 digits", [10**400, 5, 9, 9]),
):
    add("D09", f"box is {title}", with_box(box), "error", NAMES_ITEM + "bbox")
add("D09", "no box", annotation(bbox="REMOVED"), "error", NAMES_ITEM + "bbox")


# Ids
def double_image(data):
    data["images"][1]["id"] = 1


add(
    "D10", "image id twice", changed(double_image), "error", r"images\[1\].*already that of.*a\.png"
)
add("D10", "image id twice, to be repaired", changed(double_image), "repair",
    r"images\[1\].*already", policy="skip")  # fmt: skip


def double_annotation(data):
    data["annotations"][1]["id"] = 1


add("D11", "annotation id twice", changed(double_annotation), "error", r"annotations\[1\].*already")
add("D11", "annotation id twice, to be repaired", changed(double_annotation), "repair",
    "numbered anew", policy="skip")  # fmt: skip
add("D12", "annotation id 0", annotation(id=0), "accept")
add("D12", "annotation id -1", annotation(id=-1), "accept")
add("D12", "annotation id is a text", annotation(id="1"), "error", "id '1' must be an integer")
add("D12", "no annotation id", annotation(id="REMOVED"), "error", "id None must be an integer")
for value in (99, "1", None, 1.0, True):
    add("D13", f"image_id {value!r}", annotation(image_id=value), "error",
        r"annotations\[0\].*image_id .* is no image")  # fmt: skip
add("D13", "annotation without its image, to be repaired", annotation(image_id=99), "repair",
    r"annotations\[0\].*image_id 99", policy="skip")  # fmt: skip


def remove_picture(folder):
    (folder / "images" / "a.png").unlink()


add("D14", "image missing", changed(None, remove_picture), "error", r"a\.png.*does not exist")
add("D14", "image missing, to be repaired", changed(None, remove_picture), "repair",
    r"dropped image: .*a\.png", policy="skip")  # fmt: skip


def remove_all_pictures(folder):
    for path in (folder / "images").iterdir():
        path.unlink()


add("D14", "all images missing, all named", changed(None, remove_all_pictures), "error",
    r"(?s)a\.png.*b\.png.*c\.png")  # fmt: skip
add("D15", "wrong size", image(width=100, height=80), "error",
    r"says 100x80, the file is 64x48")  # fmt: skip


def rotated_picture(folder):
    exif = picture(0).getexif()
    exif[0x0112] = 6
    picture(0).save(folder / "images" / "a.jpg", exif=exif)


def as_jpeg(data):
    data["images"][0]["file_name"] = "a.jpg"


add("D15", "size before the EXIF rotation", changed(as_jpeg, rotated_picture), "error",
    "ignores the EXIF orientation")  # fmt: skip
for title, fields in (
    ("missing", {"width": "REMOVED", "height": "REMOVED"}),
    ("0", {"width": 0, "height": 0}),
    ("a text", {"width": "64", "height": "48"}),
    ("negative", {"width": -64, "height": 48}),
    ("null", {"width": None, "height": None}),
    ("a fraction", {"width": 64.5, "height": 48}),
):
    add("D16", f"size is {title}", image(**fields), "repair", "taken from the file")


def same_file(data):
    data["images"][1]["file_name"] = "a.png"


add("D17", "one file with two ids", changed(same_file), "note", "is the same file as")


# Categories
def categories(*entries, of=None):
    def change(data):
        data["categories"] = list(entries)
        for item in data["annotations"]:
            item["category_id"] = (of or {}).get(item["category_id"], item["category_id"])

    return changed(change)


A, B = "neutrophil", "lymphocyte"
add("D18", "ids from 0", categories({"id": 0, "name": A}, {"id": 1, "name": B}, of={1: 0, 2: 1}),
    "accept")  # fmt: skip
add("D18", "ids with gaps", categories({"id": 7, "name": A}, {"id": 90, "name": B},
    of={1: 7, 2: 90}), "accept")  # fmt: skip
for value in (9, "1", None, 1.5):
    add("D19", f"category_id {value!r}", annotation(category_id=value), "error",
        NAMES_ITEM + "category_id .* is unknown")  # fmt: skip
add("D20", "category id twice", categories({"id": 1, "name": A}, {"id": 1, "name": B}, of={2: 1}),
    "error", r"categories\[1\].*id 1")  # fmt: skip
for other in (A, A.upper(), f" {A} "):
    add("D20", f"name {other!r} twice", categories({"id": 1, "name": A}, {"id": 2, "name": other}),
        "error", r"categories\[1\].*same name")  # fmt: skip
add("D21", "unknown class", changed(None), "error", "none of the classes",
    class_names=(A,))  # fmt: skip
add("D22", "no categories", changed(lambda d: d.pop("categories") and d), "error", "categories")
add("D22", "empty categories", categories(), "error", '"categories" is empty')
for value in ({"id": "1", "name": A}, {"name": A}, {"id": 1}, {"id": 1, "name": ""}, "WBC", None):
    add("D22", f"category {value!r}", categories(value, {"id": 2, "name": B}), "error",
        r"categories\[0\]")  # fmt: skip


# Annotations
def without_first(data):
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] != 3]


add("D23", "image without boxes", changed(without_first), "accept")
add("D24", "no annotations", changed(lambda d: d.pop("annotations") and d), "error",
    'key "annotations" is missing')  # fmt: skip
add("D24", "empty annotations", changed(lambda d: {**d, "annotations": []}), "error", "is empty")
add("D24", "annotations is an object", changed(lambda d: {**d, "annotations": {"a": 1}}), "error",
    "expected a list")  # fmt: skip
add("D24", "annotation is a number", changed(lambda d: d["annotations"].append(7)), "error",
    r"annotations\[4\].*not an annotation")  # fmt: skip
add("D25", "iscrowd missing", annotation(iscrowd="REMOVED"), "note", "lacked area or iscrowd")
add("D25", "area missing", annotation(area="REMOVED"), "note", "lacked area or iscrowd")
add("D25", "area is wrong", annotation(area=-5), "accept")
add("D26", "iscrowd", annotation(iscrowd=1), "accept")
for flag in ("ignore", "difficult"):
    add("D26", flag, annotation(**{flag: 1}), "repair", "kept as iscrowd=1")
for value in ("yes", 2, [1], None):
    add("D26", f"iscrowd {value!r}", annotation(iscrowd=value), "error", "iscrowd .* 0 or 1")
add("D27", "polygon of two points", annotation(segmentation=[[1, 1, 5, 5]]), "accept")
add("D28", "segmentation empty", annotation(segmentation=[]), "accept")
add("D28", "segmentation null", annotation(segmentation=None), "accept")


def twice(data, shift=0.0):
    first = dict(data["annotations"][0], id=50)
    first["bbox"] = [first["bbox"][0] + shift, *first["bbox"][1:]]
    data["annotations"].append(first)


add("D29", "box twice", changed(twice), "repair", "exact duplicate of annotations")
add("D29", "box nearly twice", changed(lambda d: twice(d, 0.2)), "note", "nearly the same box")


def crowded(data):
    for number in range(150):
        box = [number % 50, number // 50 * 10, 8, 8]
        data["annotations"].append(
            {"id": 100 + number, "image_id": 1, "category_id": 1, "bbox": box, "iscrowd": 0}
        )


add("D30", "152 cells in an image, in training", changed(crowded), "note",
    "152 objects.*some cannot be found", reader="training")  # fmt: skip

# The file
whole = json.dumps(coco())


def text(content):
    return lambda folder: write_text_coco(folder, content)


for title, content, answer in (
    ("cut short", whole[: len(whole) // 2], r"train\.json:1:\d+: not valid JSON"),
    ("empty", "", "not valid JSON"),
    ("a list", "[]", "top level is a list"),
    ("a text", '"hello"', "top level is a str"),
    ("100,000 deep", "[" * 100_000, "nested too deeply|not valid JSON"),
    ("with a number of 5,000 digits", whole.replace('"id": 1', '"id": ' + "9" * 5000, 1),
     r"train\.json"),
    ("with a key twice", whole[:-1] + ', "images": []}', 'key "images" is a duplicate'),
    ("with a key twice in an item", whole.replace('"id": 1,', '"id": 1, "id": 2,', 1), "duplicate"),
    ("not UTF-8", whole.replace("neutrophil", "n\xe9utrophile").encode("latin-1"), "not UTF-8"),
    ("zero bytes", b"\0" * 1000, "not valid JSON"),
    ("UTF-16", whole.encode("utf-16"), "not UTF-8"),
    ("a web page", "<!DOCTYPE html><html></html>", "not valid JSON"),
    ("images is null", json.dumps({**coco(), "images": None}), "expected a list"),
    ("an image is a number", json.dumps({**coco(), "images": [5]}), r"images\[0\]"),
):  # fmt: skip
    add("D33", f"file is {title}", text(content), "error", answer)
add("D33", "byte-order mark", text(b"\xef\xbb\xbf" + whole.encode()), "accept")


def outside(folder):
    picture(0).save(folder / "secret.png")
    os.symlink(folder / "secret.png", folder / "images" / "link.png")


for title, name in (
    ("..", "../secret.png"),
    ("an absolute path", "/etc/passwd"),
    ("a link that leads out", "link.png"),
    ("a URL", "https://example.org/a.png"),
    ("a Windows drive", "C:\\a.png"),
    ("a network share", "\\\\server\\a.png"),
    ("a zero byte", "a\0.png"),
    ("empty", ""),
    ("null", None),
    ("a number", 5),
    ("a folder", "."),
    ("'..' with backslashes", "..\\secret.png"),
):

    def rename(data, name=name):
        data["images"][0]["file_name"] = name

    add("D34", f"file_name is {title}", changed(rename, outside), "error",
        r"images\[0\].*(file_name|not a file)")  # fmt: skip


def nested(data):
    data["images"][0]["file_name"] = "sub\\a.png"


def move(folder):
    (folder / "images" / "sub").mkdir()
    (folder / "images" / "a.png").rename(folder / "images" / "sub" / "a.png")


add("D34", "backslashes", changed(nested, move), "repair", "backslashes")
