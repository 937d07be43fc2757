"""Export of a classifier to one small file, or to a folder from which timm creates the model."""

from pathlib import Path

from timm.models import save_for_hf

from wbcnets.evaluation.classifier import Classifier
from wbcnets.io.atomic_files import digest_path
from wbcnets.io.checkpoints import write_weights
from wbcnets.io.outputs import claim_file, claim_folder, write_readme

COMMAND = "export cells"
_README = """A classifier: `wbcnets predict cells` takes this folder as weights.

config.json        the model, its classes and its preprocessing
model.safetensors  its weights
"""


def export_classifier(classifier: Classifier, output: Path) -> None:
    """Writes a classifier without its training state.

    Args:
        classifier: The model; its resizing preset is not written.
        output: A ``.safetensors`` file, in float16 and with its SHA-256 beside it, or a folder as
            timm writes it for the Hugging Face hub.

    Raises:
        ConfigError: if the output exists.
        CheckpointError: if the file cannot be written.
    """
    names = list(classifier.class_names)
    if output.suffix == ".safetensors":
        claim_file(output)
        claim_file(digest_path(output))
        write_weights(output, classifier.model.state_dict(), names)
        return
    claim_folder(output, COMMAND, [classifier.name], results=["*.safetensors"])
    side = classifier.image_size
    save_for_hf(
        classifier.model,
        str(output),
        model_args=dict(classifier.model_args),
        model_config={"label_names": names, "pretrained_cfg": {"label_names": names}},
        safe_serialization=True,
        data_config={
            "input_size": (3, side, side),
            "mean": classifier.mean,
            "std": classifier.std,
            "crop_pct": 1.0,
        },
    )
    write_readme(output, COMMAND, _README)
