"""Faults of weights: kinds of tensors, T27, and descriptions in exported files, T28."""

import json

import safetensors.torch
import torch

from tests.stress.faults.case import Catalog
from tests.stress.faults.model_cases import RUN, tensors

catalog = Catalog()
add = catalog.add

ODD_TENSORS = {
    "sparse": lambda tensor: tensor.to_sparse(),
    "compressed": lambda tensor: tensor.reshape(4, 27).to_sparse_csr(),
    "quantized": lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "without values": lambda tensor: tensor.to("meta"),
}


def state(change):
    def make(folder):
        torch.save({"model": {**tensors(), **change()}}, folder / "weights.pth")
        return folder / "weights.pth"

    return make


for title, convert in ODD_TENSORS.items():
    add(
        "T27",
        f"{title} tensor",
        state(lambda convert=convert: {"conv.weight": convert(tensors()["conv.weight"])}),
        "error",
        r"weights\.pth: 'conv\.weight' is a .* expected plain weights",
        reader="model",
    )
for key in (5, None, ("conv", "weight")):
    add(
        "T27",
        f"{key!r} as a name",
        state(lambda key=key: {key: torch.ones(1)}),
        "error",
        r"weights\.pth: .* expected plain weights by name",
        reader="model",
    )


def described(changes):
    """Writes an exported classifier whose header holds these texts."""

    def make(folder):
        header = {
            "class_names": '["a", "b"]',
            "architecture": json.dumps(RUN["model"]),
            "data_config": json.dumps(RUN["data_config"]),
        }
        safetensors.torch.save_file(tensors(), folder / "x.safetensors", {**header, **changes})
        return folder / "x.safetensors"

    return make


for title, changes, pattern in (
    ("class names: a text", {"class_names": '"abc"'}, "class_names"),
    ("class names: no JSON", {"class_names": '["a"'}, "damaged"),
    ("architecture of another type", {"architecture": "5"}, "architecture"),
    ("nested 200,000 deep", {"architecture": "[" * 200_000}, "damaged"),
    ("no size", {"data_config": "{}"}, "input_size"),
    ("temperature of 0", {"calibration": '{"temperature": 0.0}'}, r"calibration\.temperature"),
    ("temperature NaN", {"calibration": '{"temperature": NaN}'}, r"calibration\.temperature"),
    (
        "temperature of a text",
        {"calibration": '{"temperature": "hot"}'},
        r"calibration\.temperature",
    ),
    ("threshold above 1", {"calibration": '{"review_below": 1.5}'}, r"calibration\.review_below"),
    ("calibration of another type", {"calibration": "[1]"}, "calibration"),
):
    add("T28", f"exported file, {title}", described(changes), "error",
        rf"(?s)x\.safetensors.*{pattern}", reader="load classifier")  # fmt: skip
