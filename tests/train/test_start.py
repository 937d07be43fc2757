import pytest
import timm
import torch
import yaml

import wbcnets  # noqa: F401
from tests.data.cells.cell_images import make_class_folders
from tests.evaluation.small_classifier import KWARGS, save_run, small_model
from wbcnets.cli.main import main
from wbcnets.errors import CheckpointError
from wbcnets.models.factory import WEIGHTS
from wbcnets.train.config_file import load_config
from wbcnets.train.start import start_settings, take_known_classes


def test_a_shipped_name_gives_its_model_and_images():
    config = load_config("adapt_cpu", start_settings("resnext_cc_26.pbc"))
    assert config.model.name == "resnext_cc_26"
    assert config.model.weights == str(WEIGHTS / "resnext_cc_26.pbc.safetensors")
    assert (config.data.img_size, config.data.mean) == (112, [0.0, 0.0, 0.0])


def test_a_checkpoint_gives_its_model_and_images(tmp_path):
    save_run(tmp_path / "best.pth", small_model())
    config = load_config("", start_settings(str(tmp_path / "best.pth")))
    assert config.model.kwargs == KWARGS
    assert (config.data.img_size, config.data.mean) == (32, [0.1, 0.2, 0.3])


@pytest.mark.parametrize("source", ["resnet18", "no_such_model", "nothing.pth"])
def test_other_sources_are_errors_that_name_them(source):
    with pytest.raises(CheckpointError, match=source):
        start_settings(source)


def linear_model(classes):
    torch.manual_seed(classes)
    return timm.create_model("test_resnet", num_classes=classes)


def test_known_classes_keep_their_outputs(tmp_path):
    old, new = linear_model(3), linear_model(4)
    file = tmp_path / "old.pth"
    torch.save({"state_dict": old.state_dict(), "class_names": ["x", "y", "z"]}, file)
    before = new.fc.weight.clone()
    assert take_known_classes(new, file, ("z", "new", "x", "newer")) == ["z", "x"]
    assert torch.equal(new.fc.weight[0], old.fc.weight[2])
    assert torch.equal(new.fc.weight[2], old.fc.weight[0])
    assert torch.equal(new.fc.bias[2], old.fc.bias[0])
    assert torch.equal(new.fc.weight[1], before[1])


def test_weights_without_classes_or_of_another_width_change_nothing(tmp_path):
    model, file = linear_model(3), tmp_path / "old.pth"
    before = model.fc.weight.clone()
    torch.save({"state_dict": linear_model(3).state_dict()}, file)
    assert take_known_classes(model, file, ("x", "y", "z")) == []
    torch.save({"state_dict": linear_model(2).state_dict(), "class_names": ["x", "y", "z"]}, file)
    assert take_known_classes(model, file, ("x", "y", "z")) == []
    assert torch.equal(model.fc.weight, before)


def test_from_takes_the_settings_for_few_images(capsys):
    words = ["--from", "resnext_cc_26.pbc", "--data", "mine", "--print-config"]
    assert main(["train", "cells", *words, "training.epochs=3"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["name"] == "resnext_cc_26"
    assert printed["data"]["sampler"] == "class_balanced"
    assert printed["training"]["epochs"] == 3


def test_a_few_cells_adapt_a_classifier(tmp_path, capsys):
    for split, count, start in (("train", 6, 0), ("val", 2, 100)):
        make_class_folders(tmp_path / "cells" / split, {"a": count, "new": count}, start=start)
    file = tmp_path / "best.pth"
    save_run(file, small_model())
    words = ["--from", str(file), "--data", str(tmp_path / "cells")]
    options = ["--output", str(tmp_path / "run"), "training.epochs=2", "training.batch_size=6"]
    assert main(["train", "cells", *words, *options, "data.workers=0"]) == 0
    assert "classes that the weights know" in capsys.readouterr().out
    assert (tmp_path / "run" / "best.pth").is_file()
