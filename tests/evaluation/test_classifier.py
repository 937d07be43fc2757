import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

from tests.evaluation.small_classifier import KWARGS, NAMES, save_run, small_model
from wbcnets.data.cells.augmentation import CellAugmentation
from wbcnets.errors import CheckpointError, ConfigError, DataError
from wbcnets.evaluation.classifier import load_classifier
from wbcnets.evaluation.predictions import predict
from wbcnets.train.config_file import load_config
from wbcnets.train.model import describe_data


def test_run_gives_its_model_classes_and_preprocessing(tmp_path):
    model = small_model()
    save_run(tmp_path / "best.pth", model)
    classifier = load_classifier(str(tmp_path / "best.pth"))
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(classifier.model(x), model(x))
    assert not classifier.model.training
    assert classifier.class_names == NAMES
    assert (classifier.image_size, classifier.mean) == (32, (0.1, 0.2, 0.3))
    image = torch.zeros(50, 40, 3, dtype=torch.uint8).numpy()
    assert classifier.resize(image, seed=0).shape == (32, 32, 3)


def test_averaged_weights_are_the_ones_that_are_used(tmp_path):
    averaged = small_model()
    save_run(tmp_path / "best.pth", small_model(), averaged)
    classifier = load_classifier(str(tmp_path / "best.pth"))
    assert torch.equal(classifier.model.cls_token, averaged.cls_token)


@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_saved_folder(prefix, tmp_path):
    model = small_model()
    model.pretrained_cfg.update(input_size=(3, 32, 32))
    save_for_hf(
        model,
        tmp_path / "folder",
        model_config={"label_names": NAMES},
        model_args=KWARGS,
        safe_serialization=True,
    )
    classifier = load_classifier(f"{prefix}{tmp_path / 'folder'}")
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(classifier.model(x), model(x))
    assert classifier.class_names == NAMES


def test_weights_without_classes_are_an_error(tmp_path):
    torch.save(small_model().state_dict(), tmp_path / "plain.pth")
    with pytest.raises(
        CheckpointError, match=r"plain\.pth: .* names neither their model nor their classes"
    ):
        load_classifier(str(tmp_path / "plain.pth"))


def test_unknown_names_are_errors():
    with pytest.raises(CheckpointError, match="no_such_model"):
        load_classifier("no_such_model")


def test_damaged_run_is_an_error_that_names_it(tmp_path):
    (tmp_path / "best.pth").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"best\.pth"):
        load_classifier(str(tmp_path / "best.pth"))


def test_images_are_brought_to_size_as_in_the_runs_own_evaluation(tmp_path):
    config = load_config("", ["data.val_augmentation=sckansformer_eval", "data.img_size=32"])
    model = small_model()
    save_run(tmp_path / "best.pth", model, data_config=describe_data(config, model))
    classifier = load_classifier(str(tmp_path / "best.pth"))
    image = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    expected = CellAugmentation("sckansformer_eval", 32)(image, seed=0)
    assert np.array_equal(classifier.resize(image, seed=0), expected)
    plain = CellAugmentation("none", 32)(image, seed=0)
    assert not np.array_equal(expected, plain)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ["a", "b"]}, r"best\.pth: does not fit sckansformer_tiny"),
        ({"model": {"name": "no_such_model"}}, "holds a model 'no_such_model'"),
        (
            {"model": {"name": "sckansformer_tiny", "kwargs": {"nonsense": 1}}},
            r"best\.pth: architecture\.kwargs: sckansformer_tiny has no parameter nonsense",
        ),
        ({"data_config": {"mean": [0, 0, 0]}}, r"input_size is missing\n.*\.std is missing"),
    ],
)
def test_run_that_does_not_fit_itself_is_an_error(changes, message, tmp_path):
    save_run(tmp_path / "best.pth", small_model(), **changes)
    with pytest.raises(CheckpointError, match=message):
        load_classifier(str(tmp_path / "best.pth"))


def test_weights_of_imagenet_are_refused_before_they_are_downloaded(monkeypatch):
    monkeypatch.setattr(
        timm, "create_model", lambda *_, **__: pytest.fail("weights were downloaded")
    )
    with pytest.raises(CheckpointError, match="resnet18: its configuration has no label_names"):
        load_classifier("resnet18")


def test_missing_file_is_called_a_missing_file():
    with pytest.raises(CheckpointError, match=r"runs/x/best\.pth: no such file"):
        load_classifier("runs/x/best.pth")


@pytest.fixture
def classifier(tmp_path):
    torch.manual_seed(0)
    save_run(tmp_path / "best.pth", small_model())
    return load_classifier(tmp_path / "best.pth", device="cpu")


def random_images(count=3):
    return list(np.random.default_rng(0).integers(256, size=(count, 40, 30, 3), dtype=np.uint8))


def test_prediction_gives_label_and_probabilities(classifier):
    images = random_images()
    batch = torch.stack([classifier.preprocess(image) for image in images])
    with torch.inference_mode():
        expected = classifier.model(batch).double().softmax(dim=1).numpy()
    predictions = classifier.predict(images, batch_size=2)
    assert len(predictions) == 3
    for prediction, row in zip(predictions, expected):
        assert list(prediction.probabilities) == list(NAMES)
        assert [*prediction.probabilities.values()] == pytest.approx(row, abs=1e-6)
        assert prediction.label == NAMES[row.argmax()]
        assert prediction.probability == prediction.probabilities[prediction.label]


def test_paths_pillow_images_and_arrays_give_the_same(classifier, tmp_path):
    (array,) = random_images(1)
    Image.fromarray(array).save(tmp_path / "cell.png")
    with Image.open(tmp_path / "cell.png") as opened:
        images = [tmp_path / "cell.png", str(tmp_path / "cell.png"), opened, array]
        predictions = classifier.predict(images)
    assert all(prediction == predictions[0] for prediction in predictions)
    assert classifier.predict(array)[0].label == predictions[0].label
    assert classifier.predict(tmp_path / "cell.png")[0].label == predictions[0].label
    assert classifier.predict([]) == []


def test_test_time_augmentation_averages_over_views(classifier):
    (image,) = random_images(1)
    (plain,), (averaged,) = classifier.predict(image), classifier.predict(image, tta="d4")
    batch = classifier.preprocess(image)[None], torch.zeros(1)
    (expected,), _ = predict(classifier.model, [batch], tta="d4")
    assert [*averaged.probabilities.values()] == pytest.approx(expected)
    assert plain != averaged


def test_images_that_cannot_be_used_are_all_named(classifier, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    images = [tmp_path / "broken.png", *random_images(1), np.zeros((4, 4), np.uint8)]
    with pytest.raises(DataError, match="2 of 3 images") as error:
        classifier.predict(images)
    assert "broken.png" in error.value.problems[0]
    assert error.value.problems[1].startswith("images[2]: is uint8 (4, 4)")


@pytest.mark.parametrize(
    ("options", "setting"),
    [({"batch_size": 0}, "batch_size"), ({"tta": "all"}, "tta"), ({"amp": "int8"}, "amp")],
)
def test_bad_arguments_are_errors_that_name_them(options, setting, classifier):
    with pytest.raises(ConfigError, match=setting) as error:
        classifier.predict(random_images(1), **options)
    assert error.value.setting == setting
