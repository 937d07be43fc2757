import pytest
import torch

from wbcnets.engine.resume import find_changes, flatten_settings, read_newest
from wbcnets.errors import CheckpointError
from wbcnets.io.checkpoints import write_checkpoint


def test_nested_settings_get_dotted_keys():
    settings = {"model": {"name": "a", "kwargs": {"depth": 2}}, "seed": 1, "empty": {}}
    assert flatten_settings(settings) == {"model.name": "a", "model.kwargs.depth": 2, "seed": 1}


def test_changes_are_listed_but_for_those_that_may_differ():
    before = {"optimizer.lr": 0.1, "TEST.EVAL_PERIOD": 2, "TESTING": 1, "output": "a", "same": 0}
    now = {"optimizer.lr": 0.2, "TEST.EVAL_PERIOD": 3, "TESTING": 2, "output": "b", "same": 0}
    now["model.kwargs.depth"] = 3
    assert list(find_changes(before, now, ("TEST", "output"))) == [
        "TESTING: 1 then, 2 now",
        "model.kwargs.depth: None then, 3 now",
        "optimizer.lr: 0.1 then, 0.2 now",
    ]
    assert list(find_changes(before, before, ())) == []


@pytest.fixture
def saved(tmp_path):
    """Returns a function that writes a checkpoint, or a damaged one."""

    def save(name, damaged=False):
        path = tmp_path / name
        write_checkpoint(path, {"model": {"weight": torch.ones(3)}, "name": name})
        if damaged:
            path.write_bytes(path.read_bytes()[:-100])
        return path

    return save


def test_the_first_sound_checkpoint_is_read_and_no_other(saved, tmp_path, caplog):
    paths = [tmp_path / "gone", saved("newest", damaged=True), saved("before"), saved("oldest")]
    path, checkpoint = read_newest(iter(paths))
    assert (path, checkpoint["name"]) == (paths[2], "before")
    assert "newest: damaged" in caplog.text
    assert "oldest" not in caplog.text
    assert read_newest([tmp_path / "gone", tmp_path]) is None


def test_all_unsound_checkpoints_are_named(saved):
    def refuse(path, checkpoint):
        raise CheckpointError(f"{path.name}: {checkpoint['name']} is of another run")

    with pytest.raises(CheckpointError, match="no checkpoint can be resumed") as error:
        read_newest([saved("newest", damaged=True), saved("before")], refuse)
    assert "newest: damaged" in str(error.value)
    assert "before: before is of another run" in str(error.value)
