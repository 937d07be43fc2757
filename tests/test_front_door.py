"""``import wbcnets``: every function of the front door, on real data with shipped weights."""

import subprocess
import sys
import zipfile

import pytest
import torch

import wbcnets
from tests.stress.faults.builders import write_coco
from tests.train.toy_runs import make_cells
from wbcnets import api
from wbcnets.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def toy_cells(tmp_path_factory):
    return make_cells(tmp_path_factory.mktemp("toy"))


def test_the_package_lists_its_functions_and_imports_little():
    code = """
import sys
import wbcnets
import timm
heavy = ("albumentations", "detectron2", "matplotlib", "mfds_detr", "pydantic", "wbcnets.api")
print([name for name in heavy if name in sys.modules])
print(set(wbcnets.__all__) <= set(dir(wbcnets)), timm.is_model("sckansformer_tiny"))
assert all(callable(getattr(wbcnets, name)) for name in wbcnets.__all__ if name != "__version__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "True True"]


def test_an_unknown_attribute_is_an_attribute_error():
    assert not hasattr(wbcnets, "load_anything")


def test_models_are_timms():
    assert "resnext_cc_26" in wbcnets.list_models()
    model = wbcnets.create_model("resnext_cc_26.pbc", pretrained=True)
    assert model.num_classes == 8


def test_a_classifier_knows_real_cells(shared_data, tmp_path):
    with zipfile.ZipFile(shared_data / "pbc_sample_360.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))[::60]
        paths = [archive.extract(name, tmp_path) for name in names]
    classifier = wbcnets.load_classifier("resnext_cc_26.pbc", device="cpu")
    right = [prediction.label in path for path, prediction in zip(paths, classifier.predict(paths))]
    assert sum(right) / len(right) > 0.8


def test_check_takes_one_path_or_several(tmp_path):
    first, second = write_coco(tmp_path / "a"), write_coco(tmp_path / "b")
    assert wbcnets.check(first, images=str(first.parent / "images")).exit_code == 0
    assert wbcnets.check([first, second], leaks=False).exit_code == 0
    assert wbcnets.check([first, str(second)]).exit_code == 1  # the same images
    with pytest.raises(TypeError, match="lekas"):
        wbcnets.check(first, lekas=False)


def test_train_resume_and_evaluate_a_classifier(toy_cells, tmp_path):
    data = {"source": str(toy_cells), "img_size": 32, "workers": 0}
    settings = {
        "training": {"epochs": 2, "batch_size": 12},
        "optimizer.lr": 3e-3,
        "device": "cpu",
    }
    weights = wbcnets.train_classifier(data, tmp_path / "run", "test_resnet", **settings)
    assert weights == tmp_path / "run" / "best.pth"
    config = torch.load(weights, weights_only=True)["config"]
    assert config["optimizer"]["lr"] == 3e-3
    assert config["model"]["name"] == "test_resnet"
    metrics = wbcnets.evaluate(weights, toy_cells, resamples=0, workers=0, device="cpu")
    assert metrics.overall["accuracy"] >= 1 / 3
    again = wbcnets.train_classifier(toy_cells, tmp_path / "run", resume=True, device="cpu")
    assert again == weights  # a finished run stays as it is
    with pytest.raises(ConfigError, match=r"did you mean training\.epochs"):
        wbcnets.train_classifier(toy_cells, tmp_path / "other", epochs=1)


def test_wrong_data_and_kinds_are_named(tmp_path):
    with pytest.raises(ConfigError, match="use cells or smears"):
        wbcnets.evaluate("x", "y", kind="slides")
    with pytest.raises(DataError, match="none"):
        wbcnets.train_classifier(tmp_path / "none", tmp_path / "run", "test_resnet")


def test_the_detector_finds_real_cells(shared_data):
    pytest.importorskip("detectron2")
    image = sorted((shared_data / "bccd").rglob("*.jpg"))[0]
    detector = wbcnets.load_detector("mfds_detr_tiny_bccd", device="cpu")
    (found,) = detector.predict(image)
    assert len(found.boxes) == len(found.scores) == len(found.class_names) > 5
    assert "RBC" in found.class_names


def test_train_and_evaluate_a_detector(smears, tmp_path, tiny_command_line):
    pytest.importorskip("detectron2")
    overrides = [*tiny_command_line[2:], "SOLVER.MAX_ITER", 2, "DATALOADER.NUM_WORKERS", 0]
    weights = wbcnets.train_detector(
        smears, smears, output=tmp_path, config_file=tiny_command_line[1], overrides=overrides
    )
    metrics = wbcnets.evaluate(weights, smears, kind="smears", device="cpu")
    assert "AP" in metrics["test"]


def test_without_the_detector_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(api, "entry_points", lambda **query: [])
    with pytest.raises(ConfigError, match=r"pip install 'wbcnets\[detection\]'"):
        wbcnets.load_detector("mfds_detr_tiny_bccd")


TRAIN, DETECTION = "wbcnets[train]", "wbcnets[detection]"


@pytest.mark.parametrize(
    ("package", "call", "install"),
    [
        ("albumentations", "wbcnets.train_classifier('x', 'y')", TRAIN),
        ("albumentations", "wbcnets.load_classifier('resnext_cc_26.pbc')", TRAIN),
        ("albumentations", "import wbcnets.train.config_file", TRAIN),
        ("scipy", "wbcnets.evaluate('resnext_cc_26.pbc', 'x')", TRAIN),
        ("matplotlib", "import wbcnets.evaluation.plots", TRAIN),
        ("detectron2", "wbcnets.load_detector('x')", DETECTION),
        ("detectron2", "import mfds_detr", DETECTION),
        ("pycocotools", "wbcnets.train_detector('x', output='y')", DETECTION),
    ],
)
def test_a_missing_package_is_named_with_what_brings_it(package, call, install, tmp_path):
    if install == DETECTION:
        pytest.importorskip("detectron2")
    # None among the modules makes Python say that there is none of that name
    code = f"""
import sys
sys.modules[{package!r}] = None
import wbcnets
from wbcnets.errors import ConfigError
try:
    {call}
except ConfigError as error:
    assert isinstance(error, ImportError)
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert package in done.stdout, done.stderr
    assert f"pip install '{install}'" in done.stdout
