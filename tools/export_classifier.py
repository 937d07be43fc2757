"""Writes a trained classifier as a small file or as a folder that timm makes the model from again.

Examples:
  python tools/export_classifier.py --weights output/pbc/best.pth --output cells.safetensors
  python tools/export_classifier.py --weights output/pbc/best.pth --output my_model/
  python -c "import timm, wbcnets; timm.create_model('local-dir:my_model', pretrained=True)"
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save
from timm.models import save_for_hf

from wbcnets.errors import WbcnetsError
from wbcnets.evaluation.classifier import Classifier, load_classifier
from wbcnets.io.atomic_files import write_with_digest


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", required=True, help="a run's checkpoint")
    parser.add_argument(
        "--output", required=True, type=Path, help="a .safetensors file (float16), or a folder"
    )
    return parser


def write_file(classifier: Classifier, path: Path) -> None:
    """Writes the weights in float16, with the class names in the file's header."""
    state = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in classifier.model.state_dict().items()
    }
    content = save(state, metadata={"class_names": json.dumps(list(classifier.class_names))})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_with_digest(path, lambda file: file.write(content))


def write_folder(classifier: Classifier, folder: Path) -> None:
    """Writes weights and configuration as timm does for its hub."""
    side = classifier.image_size
    save_for_hf(
        classifier.model,
        str(folder),
        model_config={
            "label_names": list(classifier.class_names),
            "pretrained_cfg": {"label_names": list(classifier.class_names)},
        },
        safe_serialization=True,
        data_config={
            "input_size": (3, side, side),
            "mean": classifier.mean,
            "std": classifier.std,
            "crop_pct": 1.0,
        },
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    args = build_parser().parse_args(arguments)
    try:
        classifier = load_classifier(args.weights)
    except WbcnetsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.output.suffix == ".safetensors":
        write_file(classifier, args.output)
    else:
        write_folder(classifier, args.output)
    if classifier.preset != "none":
        print(f"Bring images to their size by the preset {classifier.preset!r}: it is not kept")
    parameters = sum(parameter.numel() for parameter in classifier.model.parameters())
    print(f"{parameters / 1e6:.1f} million parameters written to {args.output}")
    return 0


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main())
