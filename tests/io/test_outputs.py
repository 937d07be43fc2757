import os

import pytest

from wbcnets.errors import ConfigError
from wbcnets.io.outputs import check_folder, claim_file, claim_folder, write_readme


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_claimed_once_and_written_again_by_the_same_command(tmp_path):
    folder = tmp_path / "deep" / "out"
    claim_folder(folder, "predict smears")
    assert "not finished" in (folder / "README.txt").read_text()
    (folder / "counts.csv").write_text("a")
    claim_folder(folder, "predict smears")
    write_readme(folder, "predict smears", "All files.\n")
    assert (folder / "README.txt").read_text().endswith("All files.\n")
    claim_folder(folder, "predict smears")
    assert "not finished" in (folder / "README.txt").read_text()
    with pytest.raises(ConfigError, match=r"out: holds files that wbcnets check did not write, su"):
        claim_folder(folder, "check")


def test_an_empty_folder_is_free(tmp_path):
    claim_folder(tmp_path, "prepare")
    assert [path.name for path in tmp_path.iterdir()] == ["README.txt"]


@pytest.mark.parametrize("name", ["README.txt", "log.csv", ".hidden"])
def test_files_of_others_are_left_alone(name, tmp_path):
    (tmp_path / name).write_text("years of work")
    before = content(tmp_path)
    with pytest.raises(ConfigError, match=f"did not write, such as {name}; choose a new or empty"):
        claim_folder(tmp_path, "train cells")
    assert content(tmp_path) == before


def test_an_earlier_result_is_kept_but_not_a_run_that_never_began(tmp_path):
    claim_folder(tmp_path, "train cells", results=["*.pth"])
    (tmp_path / "train.log").write_text("the data is missing")
    claim_folder(tmp_path, "train cells", results=["*.pth"])
    (tmp_path / "best.pth").write_bytes(b"weights")
    with pytest.raises(ConfigError, match="an earlier result of wbcnets train cells"):
        claim_folder(tmp_path, "train cells", results=["*.pth"])


def test_an_input_is_no_output(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.png").write_bytes(b"image")
    (tmp_path / "link").symlink_to(data)
    for folder in (data, tmp_path / "link", tmp_path):
        with pytest.raises(ConfigError, match=r"is or holds an input, .*a\.png"):
            check_folder(folder, "evaluate cells", [data / "a.png"])
    with pytest.raises(ConfigError, match=r"run: lies in the data folder .*data"):
        check_folder(data / "run", "train cells", data=[data])
    check_folder(data / "run", "predict smears", inputs=[data])
    check_folder(tmp_path / "data2", "train cells", ["resnet18", "", data / "gone"], [data])


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="file: is a file; name a folder"):
        check_folder(tmp_path / "file", "check")


def test_the_error_names_the_argument(tmp_path):
    with pytest.raises(ConfigError) as error:
        check_folder(tmp_path, "check", [tmp_path], setting="fix_to")
    assert error.value.setting == "fix_to"


def test_a_file_is_replaced_only_if_the_command_wrote_it(tmp_path):
    path = tmp_path / "deep" / "table.csv"
    claim_file(path, marker="file,true")
    path.write_text("file,true,predicted\n")
    claim_file(path, marker="file,true")
    for text in ("student,grade\n", ""):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"table\.csv: exists, and was not written by this"):
            claim_file(path, marker="file,true")
    path.write_text("file,true,predicted\n")
    with pytest.raises(ConfigError, match="exists"):
        claim_file(path)


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs Linux")
def test_a_file_that_cannot_be_read_is_of_others():
    with pytest.raises(ConfigError, match="/proc/self/mem: exists, and was not written by this"):
        claim_file("/proc/self/mem", marker="{")


def test_inputs_folders_devices_and_links_are_no_files_to_write(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("{}")
    (tmp_path / "link.json").symlink_to(path)
    for given in (path, tmp_path / "link.json", tmp_path / "." / "a.json"):
        with pytest.raises(ConfigError, match="is an input; choose another name"):
            claim_file(given, [path], "{")
    with pytest.raises(ConfigError, match="is a folder; name a file"):
        claim_file(tmp_path)
    (tmp_path / "lost").symlink_to(tmp_path / "gone")
    for given in (tmp_path / "lost", os.devnull):
        with pytest.raises(ConfigError, match="exists"):
            claim_file(given, marker="x")
