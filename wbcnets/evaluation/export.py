"""Export of a classifier to one small file, or to a folder from which timm creates the model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from wbcnets.evaluation.classifier import Classifier
from wbcnets.io.atomic_files import digest_path, write_text
from wbcnets.io.checkpoints import write_weights
from wbcnets.io.outputs import StrPath, check_folder, claim_file, claim_folder, write_readme

COMMAND = "export cells"
_README = """A classifier: `wbcnets predict cells` takes this folder as weights.

config.json        the model, its classes and its preprocessing
model.safetensors  its weights, with their SHA-256 beside them
"""
# What timm needs of a model's registration; the rest says where its first weights came from
_KEPT = ("interpolation", "crop_mode", "fixed_input_size", "pool_size", "first_conv", "classifier")


def check_export(output: Path, inputs: Sequence[StrPath] = ()) -> None:
    """Checks the output of ``export_classifier`` before any work.

    Args:
        output: The file or folder.
        inputs: Files that are read.

    Raises:
        ConfigError: if the output exists or cannot be written.
    """
    if output.suffix == ".safetensors":
        claim_file(output, inputs)
        claim_file(digest_path(output), inputs)
    else:
        check_folder(output, COMMAND, inputs, results=["*.safetensors"])


def export_classifier(classifier: Classifier, output: Path) -> None:
    """Writes a classifier without its training state.

    Args:
        classifier: The model.
        output: A ``.safetensors`` file, in float16, or a folder from which timm creates the model.
            A SHA-256 is beside the weights.

    Raises:
        ConfigError: if the output exists.
        CheckpointError: if the file cannot be written.
    """
    side = classifier.image_size
    known: Any = classifier.model.pretrained_cfg
    architecture = known["architecture"]
    model_args = dict(classifier.model_args)
    data_config = {
        "input_size": [3, side, side],
        "mean": list(classifier.mean),
        "std": list(classifier.std),
    }
    names, state = list(classifier.class_names), classifier.model.state_dict()
    if output.suffix == ".safetensors":
        with claim_file(output, [classifier.name]), claim_file(digest_path(output)):
            write_weights(
                output,
                state,
                names,
                architecture={"name": architecture, "kwargs": model_args},
                data_config={**data_config, "augmentation": classifier.preset},
                calibration=classifier.calibration.model_dump(),
            )
        return
    with claim_folder(output, COMMAND, [classifier.name], results=["*.safetensors"]):
        write_weights(output / "model.safetensors", state, names, torch.float32)
        pretrained_cfg = {key: known[key] for key in _KEPT if known.get(key) is not None}
        config = {
            "architecture": architecture,
            "num_classes": len(names),
            "label_names": names,
            # timm does not know these two and ignores them
            "augmentation": classifier.preset,
            "calibration": classifier.calibration.model_dump(),
            "model_args": model_args,
            "pretrained_cfg": {
                **pretrained_cfg,
                **data_config,
                "crop_pct": 1.0,
                "num_classes": len(names),
                "label_names": names,
            },
        }
        write_text(output / "config.json", json.dumps(config, indent=2))
        write_readme(output, COMMAND, _README)
