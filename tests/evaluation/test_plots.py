import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from wbcnets.evaluation import plots
from wbcnets.evaluation.plots import draw_confusion, draw_mistakes, draw_reliability, draw_roc
from wbcnets.evaluation.predictions import Predictions


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, so that a test can ask what is in them."""
    saved = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (saved.append(self), save(self, *a, **k))
    )
    return saved


def make_predictions(classes, images=60, seed=0, right=0.8):
    generator = np.random.default_rng(seed)
    truth = np.arange(images) % classes
    taken = np.where(
        generator.random(images) < right, truth, generator.integers(classes, size=images)
    )
    probabilities = generator.dirichlet(np.ones(classes), size=images) + 2 * np.eye(classes)[taken]
    names = tuple(f"class number {index}" for index in range(classes))
    files = tuple(f"folder/{index}.png" for index in range(images))
    return truth, Predictions(
        names, files, probabilities / probabilities.sum(axis=1, keepdims=True), truth
    )


def texts(figure):
    return [
        text.get_text() for text in figure.findobj(match=lambda item: hasattr(item, "get_text"))
    ]


@pytest.mark.parametrize("classes", [2, 8, 40])
def test_all_pictures_can_be_drawn(classes, tmp_path):
    truth, predictions = make_predictions(classes)
    for draw in (draw_confusion, draw_roc, draw_reliability):
        draw(truth, predictions, tmp_path / "picture.png")
        with Image.open(tmp_path / "picture.png") as picture:
            assert min(picture.size) > 500
            assert np.asarray(picture.convert("L")).std() > 5


def test_confusion_shows_counts_and_fractions(figures, tmp_path):
    truth = np.array([0, 0, 0, 1])
    predictions = Predictions(("a", "b"), ("w", "x", "y", "z"), np.eye(2)[[0, 0, 1, 1]], truth)
    draw_confusion(truth, predictions, tmp_path / "picture.png")
    shown = texts(figures[0])
    assert {"2\n66.7%", "1\n33.3%", "1\n100.0%", "a (3)", "b (1)"} <= set(shown)


def test_confusion_with_a_class_without_images(tmp_path):
    truth, predictions = make_predictions(3)
    draw_confusion(np.zeros_like(truth), predictions, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").exists()


def test_curves_of_many_classes_are_the_lowest_and_all_look_different(figures, tmp_path):
    truth, predictions = make_predictions(40, images=400)
    draw_roc(truth, predictions, tmp_path / "picture.png")
    axes = figures[0].axes[0]
    lines = [line for line in axes.get_lines() if ":" in line.get_label()]
    assert len(lines) == plots.MOST_CURVES
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(lines)
    areas = [float(line.get_label().split(": ")[1]) for line in lines]
    assert areas == sorted(areas)
    assert "lowest of 40" in axes.get_title()


def test_curves_without_a_second_class_say_so(figures, tmp_path):
    truth, predictions = make_predictions(3)
    draw_roc(np.zeros_like(truth), predictions, tmp_path / "picture.png")
    assert "no class has both positive" in figures[0].axes[0].get_title()


def test_reliability_shows_the_accuracy_of_each_bin(figures, tmp_path):
    # Four images of confidence 0.9, three of them right
    probabilities = np.tile([0.9, 0.1], (4, 1))
    truth = np.array([0, 0, 0, 1])
    draw_reliability(
        truth, Predictions(("a", "b"), tuple("wxyz"), probabilities), tmp_path / "p.png"
    )
    upper = figures[0].axes[0]
    points = next(line for line in upper.get_lines() if "accuracy" in line.get_label())
    assert points.get_xydata().tolist() == [[pytest.approx(0.9), pytest.approx(0.75)]]
    assert "0.1500" in upper.get_title()
    # Wilson's interval of 3 in 4 is 0.301 to 0.954
    (interval,) = upper.collections[0].get_segments()
    assert interval[:, 1] == pytest.approx([0.3006, 0.9544], abs=1e-4)


def test_worst_mistakes_come_first_with_both_classes(figures, tmp_path):
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.05, 0.95]])
    predictions = Predictions(("a", "b"), ("w.png", "d/x.png", "y.png", "z.png"), probabilities)
    truth = np.array([0, 0, 0, 1])
    seen = []

    def read(index):
        seen.append(index)
        return np.full((20, 30, 3), 40 * index, dtype=np.uint8)

    assert draw_mistakes(truth, predictions, read, tmp_path / "p.png") == 2
    assert seen == [1, 2]
    titles = [axes.get_title(loc="left") for axes in figures[0].axes if axes.get_images()]
    assert titles == ["a (0.20)\n→ b (0.80)\nx.png", "a (0.40)\n→ b (0.60)\ny.png"]
    assert draw_mistakes(truth, predictions, read, tmp_path / "p.png", most=1) == 2
    assert seen == [1, 2, 1]


def test_picture_of_an_earlier_evaluation_goes_when_there_is_no_mistake(tmp_path):
    truth, predictions = make_predictions(3, right=1.0)
    (tmp_path / "p.png").write_bytes(b"old")
    assert draw_mistakes(truth, predictions, lambda index: None, tmp_path / "p.png") == 0
    assert not (tmp_path / "p.png").exists()


def test_names_with_dollars_are_no_formulas(tmp_path):
    probabilities = np.array([[0.1, 0.9]])
    predictions = Predictions(("a$b", "c$\\x$"), ("$1_$2.png",), probabilities)
    read = lambda _: np.zeros((4, 4, 3), dtype=np.uint8)  # noqa: E731
    assert draw_mistakes(np.array([0]), predictions, read, tmp_path / "p.png") == 1
    for draw in (draw_confusion, draw_roc):
        draw(np.array([0]), predictions, tmp_path / "q.png")
    assert (tmp_path / "q.png").exists()
