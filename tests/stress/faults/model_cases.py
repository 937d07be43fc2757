"""Faults of checkpoints and configs: T04, T05, T13, T23 to T27, and the payloads of S01 to S06.

A payload writes a file ``executed`` next to itself; no reader may run it.
"""

import argparse
import json
import os
import pickle

import safetensors.torch
import torch

from tests.stress.faults.case import Catalog
from wbcnets.io.checkpoints import write_checkpoint

catalog = Catalog()
add = catalog.add


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return (open, (str(self.folder / "executed"), "w"))


def tensors():
    torch.manual_seed(0)
    return {"conv.weight": torch.randn(4, 3, 3, 3), "conv.bias": torch.randn(4)}


def saved(change=None, data=None, name="weights.pth"):
    def make(folder):
        path = folder / name
        write_checkpoint(path, data or {"model": tensors()})
        if change is not None:
            raw = bytearray(path.read_bytes())
            path.write_bytes(change(raw))
        return path

    return make


def written(content, name="weights.pth"):
    def make(folder):
        path = folder / name
        path.write_bytes(content(folder) if callable(content) else content)
        return path

    return make


def flip(raw, place):
    raw[place] ^= 16
    return bytes(raw)


# Bits of padding change nothing; tests/io/test_atomic_files.py flips every byte
for title, find in (
    ("the pickle", lambda raw: raw.index(b"torch._utils")),
    ("a tensor", lambda raw: raw.index(b"/data/0") + 100),
    ("a record's name", lambda raw: raw.index(b"data.pkl")),
    ("a record's attributes", lambda raw: raw.index(b"PK\x01\x02") + 38),
    ("the end record", lambda raw: raw.rindex(b"PK\x05\x06")),
):
    make = saved(lambda raw, find=find: flip(raw, find(raw)))
    add("T04", f"flipped bit in {title}", make, "error",
        r"weights\.pth: damaged", reader="checkpoint")  # fmt: skip
for position in (0.0, 0.3, 0.9, 0.999):
    make = saved(lambda raw, p=position: bytes(raw[: int(len(raw) * p)]))
    add("T04", f"cut at {position:.1%}", make, "error",
        r"weights\.pth: (damaged|the file is empty)", reader="checkpoint")  # fmt: skip
for title, content, answer in (
    ("Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
    ("web page", b"<!DOCTYPE html><html></html>", "a web page"),
    ("web page in capitals", b"\n <HTML>", "a web page"),
    ("empty", b"", "the file is empty"),
    ("text", b"hello", "damaged"),
    ("zip of something else", b"PK\x05\x06" + b"\0" * 18, "damaged"),
):
    add("T05", f"file is {title}", written(content), "error", answer, reader="checkpoint")
add("T05", "no file", lambda folder: folder / "gone.pth", "error", "no such file",
    reader="checkpoint")  # fmt: skip


def pipe(name):
    def make(folder):
        os.mkfifo(folder / name)
        return folder / name

    return make


# A pipe would be waited for without end
add("T05", "weights are a pipe", pipe("weights.pth"), "error", r"weights\.pth: is not a file",
    reader="checkpoint")  # fmt: skip
add("T05", "settings are a pipe", pipe("mine.yaml"), "error", r"mine\.yaml: neither a file",
    reader="config")  # fmt: skip
add("T05", "annotations are a pipe", pipe("train.json"), "error", r"train\.json")


def torch_save(value):
    def content(folder):
        path = folder / "made.pth"
        torch.save(value(folder) if callable(value) else value, path)
        return path.read_bytes()

    return written(content)


nan = {"conv.weight": torch.full((4, 3, 3, 3), float("nan")), "conv.bias": torch.zeros(4)}
add("T13", "NaN in the weights", torch_save({"model": nan}), "error", "not finite", reader="model")
add("T24", "prefixed names",
    torch_save({"model": {f"module.{k}": v for k, v in tensors().items()}}), "accept",
    reader="model")  # fmt: skip
add("T24", "half of the weights", torch_save({"model": {"conv.bias": torch.zeros(4)}}), "error",
    r"conv\.weight", reader="model")  # fmt: skip
add("T24", "weights of another model", torch_save({"model": {"x": torch.zeros(4)}}), "error",
    r"conv\.weight", reader="model")  # fmt: skip
add("T23", "wrong number of classes", torch_save({"model": {**tensors(), "conv.bias":
    torch.zeros(9)}}), "error", r"conv\.bias", reader="model")  # fmt: skip
add("T25", "with a Namespace",
    torch_save({"model": tensors(), "args": argparse.Namespace(lr=1)}), "accept",
    reader="checkpoint")  # fmt: skip
add("T25", "weights in 'state_dict'", torch_save({"state_dict": tensors()}), "accept",
    reader="checkpoint")  # fmt: skip
add("T25", "whole module", torch_save({"model": torch.nn.Conv2d(3, 4, 3)}), "error",
    "holds more than weights", reader="checkpoint")  # fmt: skip
add("T25", "a list", torch_save([torch.zeros(3)]), "error", "holds a list", reader="checkpoint")
add("T25", "no tensors", torch_save({"model": {"a": 1}}), "error", "holds no weights",
    reader="checkpoint")  # fmt: skip
add("T25", "legacy format", written(lambda folder: legacy(folder)), "accept", reader="checkpoint")


def legacy(folder):
    path = folder / "legacy.pth"
    torch.save({"model": tensors()}, path, _use_new_zipfile_serialization=False)
    return path.read_bytes()


payload = "holds more than weights"
add("S01", "payload in a .pth", torch_save(lambda folder: {"model": Payload(folder)}), "error",
    payload, reader="checkpoint")  # fmt: skip
add("S01", "payload in a legacy .pth", written(lambda f: pickle.dumps({"model": Payload(f)})),
    "error", payload, reader="checkpoint")  # fmt: skip
add("S03", "payload in a .pkl",
    written(lambda folder: pickle.dumps({"model": Payload(folder)}), "weights.pkl"), "error",
    payload, reader="checkpoint")  # fmt: skip
for protocol in (0, 2, 4):
    add("S03", f"payload in a .pkl of protocol {protocol}",
        written(lambda f, p=protocol: pickle.dumps([Payload(f)], p), "weights.pkl"), "error",
        payload, reader="checkpoint")  # fmt: skip
header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 99999]}}).encode()
for title, content in (
    ("offsets outside", len(header).to_bytes(8, "little") + header + b"\0" * 16),
    ("huge header", (1 << 40).to_bytes(8, "little") + b"{}"),
    ("header that is no JSON", (4).to_bytes(8, "little") + b"{{{{"),
    ("nothing but zeros", b"\0" * 64),
):
    add("S02", f"safetensors: {title}", written(content, "weights.safetensors"), "error",
        r"weights\.safetensors", reader="checkpoint")  # fmt: skip
add("S02", "valid safetensors", written(safetensors.torch.save(tensors()), "weights.safetensors"),
    "accept", reader="checkpoint")  # fmt: skip


def text(content, name="config.yaml"):
    def make(folder):
        path = folder / name
        path.write_text(content.replace("FOLDER", str(folder)))
        return path

    return make


TAG = "!!python/object/apply:builtins.open ['FOLDER/executed', 'w']"
bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(8)
)
for title, content in (
    ("payload in YAML", f"output: {TAG}"),
    ("unknown key", "optimizer:\n  lerning_rate: 1"),
    ("wrong type", "training:\n  epochs: many"),
    ("NaN as a number", "optimizer:\n  lr: .nan"),
    ("a list", "- a"),
    ("invalid YAML", "training: ["),
    ("alias bomb", bomb),
    ("zero bytes", "\0\0"),
    ("key twice", "device: cpu\ndevice: cuda"),
    ("a mapping as a key", "training:\n?  epochs: 3\nx: 1"),
    ("a list as a key", "? [a, b]\n: 3"),
):
    add("S04", f"classifier: {title}", text(content), "error", r"config\.yaml|settings|output",
        reader="config")  # fmt: skip
for title, content in (
    ("payload in YAML", f"OUTPUT_DIR: {TAG}"),
    ("unknown key", "SOLVER:\n  LERNING_RATE: 1"),
    ("wrong type", "SOLVER:\n  MAX_ITER: many"),
    ("its own base", "_BASE_: config.yaml"),
    ("a list", "- a"),
    ("invalid YAML", "SOLVER: ["),
    ("zero bytes", "\0\0"),
    ("0 queries", "MODEL:\n  MFDS_DETR:\n    NUM_QUERIES: 0"),
):
    case = "S06" if "base" in title else "S04"
    add(case, f"detector: {title}", text(content), "error", r"config\.yaml|NUM_QUERIES",
        reader="detector config")  # fmt: skip
add("S05", "Python config", text("open('FOLDER/executed', 'w')", "config.py"), "error",
    r"config\.py", reader="detector config")  # fmt: skip


RUN = {
    "state_dict": {"conv.weight": torch.zeros(1)},
    "model": {"name": "resnet18", "kwargs": {}},
    "class_names": ["a", "b"],
    "data_config": {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3},
}
FOLDER = {
    "architecture": "resnet18",
    "label_names": ["a", "b"],
    "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3},
}


def payload_file(folder):
    path = folder / "payload.bin"
    path.write_bytes(pickle.dumps(Payload(folder)))
    return str(path)


def beside_payload(make):
    """Writes a payload next to the input that ``make`` writes."""

    def make_both(folder):
        payload_file(folder)
        return make(folder)

    return make_both


def run_file(change):
    """Writes a run's checkpoint; ``change`` gets the path of a payload and returns new parts."""

    def make(folder):
        torch.save({**RUN, **change(payload_file(folder))}, folder / "best.pth")
        return folder / "best.pth"

    return make


def saved_folder(change, weights="model.safetensors"):
    """Writes a folder of weights; ``change`` gets the path of a payload and returns new parts."""

    def make(folder):
        root = folder / "saved"
        root.mkdir()
        config = {**FOLDER, **change(payload_file(folder))}
        (root / "config.json").write_text(json.dumps(config))
        if weights.endswith(".bin"):
            (root / weights).write_bytes(pickle.dumps(Payload(folder)))
        else:
            safetensors.torch.save_file(tensors(), root / weights)
        return root

    return make


# Keywords by which timm's factory reads files; the value gets the path of a payload
LOADING = {
    "checkpoint_path": lambda path: path,
    "pretrained": lambda path: True,
    "pretrained_cfg": lambda path: {"file": path},
    "pretrained_cfg_overlay": lambda path: {"file": path},
    "cache_dir": lambda path: path,
    "scriptable": lambda path: True,
}
for key, value in LOADING.items():
    refusal = rf"resnet18 has no parameter {key} that a file may set"
    add(
        "S07",
        f"{key} in a checkpoint",
        run_file(
            lambda path, k=key, v=value: {"model": {"name": "resnet18", "kwargs": {k: v(path)}}}
        ),
        "error",
        rf"best\.pth: architecture\.kwargs: {refusal}",
        reader="load classifier",
    )
    add(
        "S07",
        f"{key} in a saved folder",
        saved_folder(lambda path, k=key, v=value: {"model_args": {k: v(path)}}),
        "error",
        rf"saved: architecture\.kwargs: {refusal}",
        reader="load classifier",
    )
    setting = f"{{{key}: {json.dumps(value('FOLDER/payload.bin'))}}}"
    add(
        "S07",
        f"{key} in the classifier's config",
        beside_payload(text(f"model:\n  name: resnet18\n  kwargs: {setting}")),
        "error",
        rf"model\.kwargs: {refusal}",
        reader="classifier model",
    )
    add(
        "S07",
        f"{key} in the detector's config",
        beside_payload(text(f"MODEL:\n  TIMM:\n    NAME: resnet18\n    OPTIONS: {setting}")),
        "error",
        rf"MODEL\.TIMM\.OPTIONS: {refusal}",
        reader="detector backbone",
    )
add(
    "S07",
    "pickled weights in a saved folder",
    saved_folder(lambda path: {}, "pytorch_model.bin"),
    "error",
    r"pytorch_model\.bin: .*holds more than weights",
    reader="load classifier",
)
for name in ("hf-hub:someone/model", "local-dir:/tmp", 5, None, ["resnet18"]):
    add(
        "S07",
        f"architecture {name!r} in a saved folder",
        saved_folder(lambda path, n=name: {"architecture": n}),
        "error",
        r"(?s)saved.*(holds a model|architecture\.name)",
        reader="load classifier",
    )
WRONG = {
    "architecture.kwargs of another type": {"model": {"name": "resnet18", "kwargs": 5}},
    "architecture.name of another type": {"model": {"name": 5}},
    "architecture of another type": {"model": 5},
    "class names: a text": {"class_names": "abc"},
    "class names: a number twice": {"class_names": ["a", "a"]},
    "class names: numbers": {"class_names": [1, 2.5, None]},
    "class names: with a line break": {"class_names": ["a\nb", "c"]},
    "class names: empty texts": {"class_names": ["", " "]},
}
for title, metadata in WRONG.items():
    named = "class_names" if "class_names" in metadata else title.split()[0]
    add(
        "T26",
        title,
        run_file(lambda path, m=metadata: m),
        "error",
        rf"best\.pth.*\n.*{named}",
        reader="load classifier",
    )
for key, value in (
    *(("input_size", size) for size in ("abc", [], [3, 32], 40000, [3, 40000, 40000], [3, 32, 16])),
    *(("input_size", size) for size in ([1, 32, 32], [3, 0, 0], [3, 32.0, 32.0], None)),
    *(("mean", mean) for mean in ([0.5, 0.5], [float("nan"), 0, 0], "abc", [128, 128, 128])),
    *(("std", std) for std in ([0.5, 0.5], [0, 1, 1], [-1, 1, 1], [float("inf"), 1, 1], 1)),
    *(("augmentation", name) for name in ("flips", "sckansformer", "no_such", 5)),
):
    add(
        "T26",
        f"{key} {value!r}",
        run_file(lambda path, k=key, v=value: {"data_config": {**RUN["data_config"], k: v}}),
        "error",
        rf"best\.pth.*\n.*data_config\.{key}",
        reader="load classifier",
    )
HUGE = {
    "depth of 10^9": ("test_vit", {"depth": 10**9}, "depth=1000000000 is out of range"),
    "60,000 blocks": ("test_vit", {"depth": 60_000}, "it would hold more than .* its file holds"),
    "width of 60,000": ("test_vit", {"embed_dim": 60_000}, "it would hold more than"),
    "no heads": ("test_vit", {"num_heads": 0}, "cannot be created with"),
    "stem of 60,000 channels": (
        "resnet18",
        {"stem_width": 60_000, "stem_type": "deep"},
        "hold more",
    ),
    "stages of 60,000 channels": (
        "resnet18",
        {"channels": [60_000] * 4},
        "it would hold more than",
    ),
}
for title, (name, kwargs, answer) in HUGE.items():
    add(
        "T27",
        f"{title} in a checkpoint",
        run_file(lambda path, n=name, k=kwargs: {"model": {"name": n, "kwargs": k}}),
        "error",
        rf"best\.pth: architecture\.kwargs.*{answer}",
        reader="load classifier",
    )
for title, content in (
    ("a loss that weighs 0", "loss:\n  name: {cross_entropy: 0}"),
    ("100,000 workers", "data:\n  workers: 100000"),
    ("images of 1 px", "data:\n  img_size: 1"),
    ("a random augmentation for evaluation", "data:\n  val_augmentation: flips"),
    ("a NaN among free keywords", "optimizer:\n  kwargs: {eps: .nan}"),
):
    add("T27", f"classifier: {title}", text(content), "error",
        r"(loss\.name|data\.(workers|img_size|val_augmentation)|optimizer\.kwargs\.eps)",
        reader="config")  # fmt: skip
for title, content in (
    ("a rate of infinity", "SOLVER:\n  BASE_LR: .inf"),
    ("100,000 workers", "DATALOADER:\n  NUM_WORKERS: 100000"),
    ("images of a million px", "INPUT:\n  MAX_SIZE_TEST: 1000000"),
    ("a std of 0", "MODEL:\n  PIXEL_STD: [0.0, 1.0, 1.0]"),
):
    add("T27", f"detector: {title}", text(content), "error",
        r"(BASE_LR|NUM_WORKERS|MAX_SIZE_TEST|PIXEL_STD)=", reader="detector config")  # fmt: skip
