import json

import pytest

from tests.train.toy_runs import make_cells
from wbcnets.errors import ConfigError
from wbcnets.train import ablations
from wbcnets.train.ablation_tables import STUDIES
from wbcnets.train.ablations import choose_tables, format_table, run_ablations
from wbcnets.train.config_file import load_config

SMALL = {
    "sckansformer": (
        "model.kwargs.embed_dim=48",
        "model.kwargs.depth=2",
        "model.kwargs.num_heads=3",
    ),
    "conv_sparse_vit": (
        *("model.kwargs.embed_dim=48", "model.kwargs.depth=3", "model.kwargs.num_heads=3"),
    ),
}
COMMON = (
    *("model.pretrained=false", "data.img_size=32", "data.workers=0"),
    *("training.epochs=1", "training.batch_size=12", "device=cpu", "schedule.warmup_epochs=0"),
)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return str(make_cells(tmp_path_factory.mktemp("cells") / "toy", train=8, val=3))


@pytest.mark.parametrize("paper", STUDIES)
def test_every_row_has_a_run_of_its_own_settings(paper):
    study = STUDIES[paper]
    shown = {run for table in study.tables.values() for run in table.rows.values()}
    assert shown == set(study.runs)
    settings = [load_config(study.preset, [*study.base, *run]) for run in study.runs.values()]
    assert all(one != other for i, one in enumerate(settings) for other in settings[:i])
    for table in study.tables.values():
        assert len(table.rows) == len(table.results)
        assert all(len(row) == len(study.metrics) for row in table.results)


def test_papers_results():
    tables = STUDIES["sckansformer"].tables
    assert dict(zip(tables["V"].rows, tables["V"].results))["without KAN"][-1] == 95.13
    # The text of ResNeXt-CC gives differences to the row before
    before, after = STUDIES["resnext_cc"].tables["7"].results
    gains = [round(b - a, 2) for a, b in zip(before, after)]
    assert gains == [1.99, 1.46, 0.86, 3.39]


def test_tables_are_those_of_the_set():
    study = STUDIES["sckansformer"]
    assert [t.dataset for t in choose_tables(study, "pbc")] == ["pbc"]
    assert len(choose_tables(study, "my_cells")) == 1
    assert len(choose_tables(STUDIES["resnext_cc"], "my_cells")) == 5
    assert [t.title[-4:] for t in choose_tables(study, "pbc", ["IV"])] == ["FGCD"]
    with pytest.raises(ConfigError, match="'9'"):
        choose_tables(study, "pbc", ["9"])


@pytest.mark.parametrize("paper", ["sckansformer", "conv_sparse_vit"])
def test_a_study_runs_and_keeps_what_is_finished(paper, cells, tmp_path, monkeypatch):
    options = [*COMMON, *SMALL[paper]]
    number = {"sckansformer": "V", "conv_sparse_vit": "3"}[paper]
    text = run_ablations(paper, cells, tmp_path, options, [number])
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results) == set(STUDIES[paper].runs)
    for row in results.values():
        assert all(0 <= value <= 1 for value in row.values())
    metric = STUDIES[paper].metrics[-1]
    label, run = next(iter(STUDIES[paper].tables[number].rows.items()))
    paper_result = STUDIES[paper].tables[number].results[0][-1]
    line = next(line for line in text.splitlines() if line.startswith(f"| {label} |"))
    assert f"{100 * results[run][metric]:.2f} ({paper_result:.2f})" in line

    def fail(*arguments):
        raise AssertionError("it is finished already")

    monkeypatch.setattr(ablations, "train_classifier", fail)
    monkeypatch.setattr(ablations, "resume_training", fail)
    assert run_ablations(paper, cells, tmp_path, options, [number]) == text
    with pytest.raises(ConfigError, match=r"other settings \(optimizer\.lr: "):
        run_ablations(paper, cells, tmp_path, [*options, "optimizer.lr=1"], [number])


def test_rows_cannot_be_made_the_same(cells, tmp_path):
    with pytest.raises(
        ConfigError, match=r"model\.kwargs\.scconv=true: the rows of the table compare"
    ):
        run_ablations("sckansformer", cells, tmp_path, ["model.kwargs.scconv=true"])
    with pytest.raises(ConfigError, match="use one of sckansformer"):
        run_ablations("another", cells, tmp_path)


def test_two_classes_take_the_positive_one():
    best = {
        "overall": {"accuracy": 0.5, "f1_macro": 0.1, "auroc_macro": 0.2, "specificity_macro": 0.3},
        "per_class": {
            "hem": {"f1": 0.6, "auroc": 0.7, "specificity": 0.8},
            "all": {"f1": 0.9, "auroc": 0.7, "specificity": 0.4},
        },
    }
    study = STUDIES["resnext_cc"]
    assert list(ablations._select_metrics(best, study, "").values()) == [0.5, 0.9, 0.7, 0.4]
    assert list(ablations._select_metrics(best, study, "hem").values()) == [0.5, 0.6, 0.7, 0.8]
    best["per_class"]["other"] = best["per_class"]["all"]
    assert list(ablations._select_metrics(best, study, "").values()) == [0.5, 0.1, 0.2, 0.3]
    with pytest.raises(ConfigError, match="blast"):
        ablations._select_metrics(best, study, "blast")


def test_results_that_a_paper_does_not_give_are_dashes():
    study = STUDIES["resnext_cc"]
    text = format_table(study, study.tables["6"], {"softmax": {"accuracy": 0.5}})
    assert "| softmax | 50.00 (-) | - (-) | - (-) | - (-) |" in text
    assert "| w-softmax + center | - (87.46) |" in text
