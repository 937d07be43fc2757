import numpy as np
import pytest
import torch
from torch import nn

from wbcnets.errors import CheckpointError, ConfigError, DataError
from wbcnets.evaluation.predictions import Predictions, predict, tta_images


class Corner(nn.Module):
    """Logits from the first and the last pixel: other views give other logits."""

    def forward(self, x):
        return torch.stack([x[:, 0, 0, 0], x[:, 0, -1, -1]], dim=1)


def table(labels=(0, 1)):
    probabilities = np.array([[0.75, 0.25], [0.4, 0.6]])
    return Predictions(("a", "b"), ("x.png", "y.png"), probabilities, np.array(labels))


def test_table_comes_back_as_it_was(tmp_path):
    table().to_csv(tmp_path / "p.csv")
    again = Predictions.from_csv(tmp_path / "p.csv")
    assert again.class_names == ("a", "b")
    assert again.files == ("x.png", "y.png")
    np.testing.assert_allclose(again.probabilities, table().probabilities)
    assert again.labels.tolist() == [0, 1]
    assert (tmp_path / "p.csv").read_text().splitlines()[1].startswith("x.png,a,a,0.750000")


def test_table_without_true_classes(tmp_path):
    Predictions(("a", "b"), ("x.png",), np.array([[0.2, 0.8]])).to_csv(tmp_path / "p.csv")
    assert Predictions.from_csv(tmp_path / "p.csv").labels is None


@pytest.mark.parametrize(
    "content", ["", "file,class\nx,a\n", "file,true,predicted,probability,a\nx\n"]
)
def test_another_table_is_an_error_that_names_it(content, tmp_path):
    (tmp_path / "other.csv").write_text(content)
    with pytest.raises(DataError, match=r"other\.csv: is not a table of predictions"):
        Predictions.from_csv(tmp_path / "other.csv")


@pytest.mark.parametrize(("tta", "count"), [("none", 1), ("flips", 4), ("d4", 8)])
def test_views_are_all_different(tta, count):
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    seen = {tuple(view.flatten().tolist()) for view in tta_images(image, tta)}
    assert len(seen) == len(tta_images(image, tta)) == count
    assert tuple(image.flatten().tolist()) in seen


def test_probabilities_are_means_over_views():
    images = torch.rand(5, 1, 4, 4)
    numbers = torch.arange(5)
    batches = [(images[:3], numbers[:3]), (images[3:], numbers[3:])]
    probabilities, numbers_seen = predict(Corner(), batches, tta="flips")
    views = [images, images.flip(2), images.flip(3), images.flip(2).flip(3)]
    expected = torch.stack([Corner()(view).softmax(dim=1) for view in views]).mean(dim=0)
    np.testing.assert_allclose(probabilities, expected.numpy(), rtol=1e-6)
    assert numbers_seen.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)


def test_half_precision_gives_nearly_the_same():
    batches = [(torch.rand(4, 3, 8, 8), torch.arange(4))]
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).eval()
    plain, _ = predict(model, batches)
    half, _ = predict(model, batches, amp="bfloat16")
    np.testing.assert_allclose(half, plain, atol=0.02)


def test_unknown_tta_and_no_images_are_errors():
    with pytest.raises(ConfigError, match="tta 'all' is unknown"):
        predict(Corner(), [], tta="all")
    with pytest.raises(DataError, match="no images"):
        predict(Corner(), [])


@pytest.mark.parametrize(
    ("row", "problem"), [("x.png,a,a,1,1,0", "twice"), ("y,a,a,1,nan,0", "no")]
)
def test_damaged_table_is_an_error_that_names_the_problem(row, problem, tmp_path):
    lines = ["file,true,predicted,probability,a,b", "x.png,a,a,1,1,0", row]
    (tmp_path / "p.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match=rf"p\.csv: is not a table of predictions .*{problem}"):
        Predictions.from_csv(tmp_path / "p.csv")


def test_names_in_any_script_come_back(tmp_path):
    names = ("Myeloblast ♀", "粒细胞, 中性")
    Predictions(names, ("a,b.png",), np.array([[0.2, 0.8]])).to_csv(tmp_path / "p.csv")
    again = Predictions.from_csv(tmp_path / "p.csv")
    assert (again.class_names, again.files) == (names, ("a,b.png",))


def test_logits_that_are_no_numbers_are_an_error():
    images = torch.zeros(3, 1, 2, 2)
    images[1] = float("nan")
    with pytest.raises(CheckpointError, match="logits are not finite for 1 of 3 images"):
        predict(Corner(), [(images, torch.arange(3))])
