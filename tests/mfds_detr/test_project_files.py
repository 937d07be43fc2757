"""Configs and weights are found beside the package in a clone, and inside it once installed."""

from pathlib import Path

from mfds_detr import project_files as module
from mfds_detr.checkpoint.weights import read_config_of, read_weights
from mfds_detr.project_files import project_files

PROJECT = Path(__file__).parents[2] / "projects" / "mfds_detr"


def test_in_a_clone():
    configs = project_files("configs")
    assert configs["mfds_detr_tiny_bccd"] == PROJECT / "configs" / "mfds_detr_tiny_bccd.yaml"
    assert "ablations/table6_fpn" in configs
    names = {"mfds_detr_plus_tiny", "mfds_detr_tiny_bccd", "mfds_detr_tiny_smears"}
    assert set(project_files("weights")) == names


def test_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PACKAGE", tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.yaml").write_text("")
    assert project_files("configs") == {"mine": tmp_path / "configs" / "mine.yaml"}


def test_all_shipped_weights_have_a_config_and_a_digest():
    for path in project_files("weights").values():
        assert read_config_of(read_weights(path)).MODEL.META_ARCHITECTURE == "MFDSDETR"
        assert path.with_name(f"{path.name}.sha256").is_file()
