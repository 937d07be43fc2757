"""The training command trains, evaluates, names wrong input in one message, and survives kills."""

import itertools
import json
import os
import random
import re
import shutil
import signal
import time

import pytest
import torch
from PIL import Image

pytest.importorskip("detectron2")

from mfds_detr.cli import train
from mfds_detr.engine import run as engine
from tests.processes import Worker, run_script
from wbcnets.cli.main import CommandParser, run_command
from wbcnets.errors import ConfigError, DataError
from wbcnets.io.checkpoints import read_checkpoint
from wbcnets.io.outputs import claim_folder

QUICK = ["SOLVER.IMS_PER_BATCH", "2", "SOLVER.CHECKPOINT_PERIOD", "1", "TEST.EVAL_PERIOD", "0"]


@pytest.fixture
def command(tiny_command_line, tmp_path):
    """Returns a function that makes the arguments: flags, dataset, overrides."""

    def make(json_file, images, *overrides, flags=()):
        return [
            *flags,
            "--dataset",
            f"mine={json_file}:{images}",
            *tiny_command_line,
            *QUICK,
            *("DATASETS.TRAIN", "('mine',)", "DATASETS.TEST", "('mine',)"),
            *("OUTPUT_DIR", str(tmp_path / "output")),
            *(str(override) for override in overrides),
        ]

    return make


def call(arguments):
    assert run_command(train, arguments) == 0


@pytest.fixture
def refusal(capfd, caplog):
    """Returns a function that runs a command that must fail, and returns its output."""

    def run(arguments, code=2):
        try:
            found = run_command(train, arguments)
        except SystemExit as end:
            found = end.code
        assert found == code
        shown = "".join(capfd.readouterr()) + caplog.text
        caplog.clear()
        assert "Traceback" not in shown
        return shown

    return run


@pytest.fixture
def start(repository, tmp_path):
    """Returns a function that starts the script of a clone in a process of its own."""
    script = repository / "projects" / "mfds_detr" / "train_net.py"
    numbers = itertools.count()

    def run(arguments):
        return Worker(tmp_path / f"shown_{next(numbers)}.txt", run_script, script, *arguments)

    return run


def test_train_then_evaluate(command, smears, tmp_path, capsys):
    call(command(*smears, "SOLVER.MAX_ITER", 2))
    output = tmp_path / "output"
    first = json.loads((output / "evaluation.json").read_text())
    assert "class_names" in read_checkpoint(output / "model_final.pth")
    config = (output / "config.yaml").read_text()
    assert "NUM_CLASSES: 5" in config
    assert "META_ARCHITECTURE: MFDSDETR" in config
    text = (output / "log.txt").read_text()
    assert "6 images" in text
    weights = ["MODEL.WEIGHTS", output / "model_final.pth"]
    elsewhere = ["OUTPUT_DIR", tmp_path / "evaluated"]
    for words, flags in (([*weights, *elsewhere], ["--eval-only"]),
                         (["TEST.SCORE_THRESHOLD", 0.0], ["--eval-only", "--resume"])):  # fmt: skip
        call(command(*smears, *words, flags=flags))
        folder = tmp_path / "evaluated" if elsewhere[1] in words else output
        again = json.loads((folder / "evaluation.json").read_text())["results"]["mine"]
        for name, value in first["results"]["mine"].items():
            assert again[name] == pytest.approx(value, nan_ok=True)
    assert (output / "config.yaml").read_text() == config
    assert "model_best.pth" in (output / "README.txt").read_text()


@pytest.mark.parametrize("flags", [(), ("--resume",), ("--eval-only", "--resume")])
def test_a_folder_that_a_run_is_writing_is_left_to_it(command, smears, tmp_path, refusal, flags):
    with claim_folder(tmp_path / "output", "train smears"):
        shown = refusal(command(*smears, flags=flags))
    assert "output: is being written by wbcnets train smears, process " in shown
    assert "see --output" in shown


@pytest.mark.parametrize("flags", [(), ("--eval-only",)])
def test_a_training_is_never_overwritten(command, smears, tmp_path, refusal, flags):
    output = tmp_path / "output"
    output.mkdir()
    (output / "README.txt").write_text("Written by wbcnets train smears.\n")
    (output / "model_best.pth").write_bytes(b"weights")
    (output / "metrics.json").write_text("{}")
    before = {path: path.read_bytes() for path in output.iterdir()}
    text = refusal(command(*smears, "MODEL.WEIGHTS", "other.pth", flags=flags))
    assert f"{output}: holds" in text
    assert {path: path.read_bytes() for path in output.iterdir()} == before


@pytest.mark.parametrize("name", ["(1,)", "None", "'a", "1e-400"])
def test_a_folder_is_taken_as_it_is(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parser = CommandParser(load=lambda: train)
    cfg = train.read_run_config(parser.parse_args(["--output", name, "--seed", "3"]))
    assert (name, 3) == (cfg.OUTPUT_DIR, cfg.SEED)
    if name == "1e-400":
        with pytest.raises(ConfigError, match=r"takes this folder for a number; write \./1e-400"):
            engine.claim_output(cfg, engine.RunOptions())
        assert list(tmp_path.iterdir()) == []


def test_the_folder_of_others_and_of_the_images_is_no_output(command, smears, tmp_path, refusal):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "README.txt").write_text("years of work")
    for flags in ((), ("--resume",)):
        assert "did not write" in refusal(command(*smears, flags=flags))
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["README.txt"]
    text = refusal(command(*smears, "OUTPUT_DIR", smears[1] / "run"))
    assert "lies in the data folder" in text


def missing_image(content, images):
    (images / "smear_000002.png").unlink()


def size_mismatch(content, images):
    content["images"][2]["width"] = 170


def unknown_category(content, images):
    content["annotations"][1]["category_id"] = 77


def duplicate_ids(content, images):
    content["images"][3]["id"] = content["images"][2]["id"]


def duplicate_annotation_ids(content, images):
    content["annotations"][1]["id"] = content["annotations"][0]["id"]


def empty_annotations(content, images):
    content["annotations"] = []


def outside(content, images):
    content["images"][1]["file_name"] = "../../secret.png"


def absolute_path(content, images):
    content["images"][1]["file_name"] = "/etc/passwd"


def no_images(content, images):
    content["images"] = []


def header_only(content, images):
    (images / "smear_000002.png").write_bytes(b"\x89PNG\r\n\x1a\n")


BAD_INPUT = {
    missing_image: r"smear_000002\.png.*does not exist|smear_000002\.png.*missing",
    size_mismatch: r"smear_000002\.png.*170",
    unknown_category: r"(?s)annotations\[1\].*77",
    duplicate_ids: r"images\[3\].*id",
    duplicate_annotation_ids: r"annotations\[1\].*id",
    empty_annotations: r"\"annotations\"",
    outside: r"\.\./\.\./secret\.png.*out of the image folder",
    absolute_path: r"/etc/passwd.*absolute path",
    no_images: r"\"images\" is empty",
    header_only: r"smear_000002\.png.*cannot be read",
}


@pytest.mark.parametrize("spoil", BAD_INPUT, ids=lambda spoil: spoil.__name__)
def test_bad_input_ends_with_one_clear_message(spoil, command, smears, tmp_path, refusal):
    images = tmp_path / "images"
    shutil.copytree(smears.images, images)
    content = json.loads(smears.json_file.read_text())
    spoil(content, images)
    json_file = tmp_path / "spoiled.json"
    json_file.write_text(json.dumps(content))
    shown = refusal(command(json_file, images), code=1)
    assert "spoiled.json" in shown
    assert re.search(BAD_INPUT[spoil], shown), shown
    assert len(re.findall("nothing was loaded", shown)) == 1
    assert not (tmp_path / "output" / "metrics.json").exists()


def test_bad_files(command, smears, tmp_path, refusal):
    (tmp_path / "broken.json").write_text('{"images": [')
    for json_file, images, message in (
        (tmp_path / "nowhere.json", smears.images, "nowhere.json"),
        (tmp_path / "broken.json", smears.images, "broken.json"),
        (smears.json_file, tmp_path / "no_folder", "no_folder"),
    ):
        assert message in refusal(command(json_file, images), code=1)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (("MODEL.MFDS_DETR.QUERIES", "3"), "QUERIES"),
        (("MODEL.MFDS_DETR.NUM_QUERIES", "many"), "NUM_QUERIES"),
        (("SEED", "4294967296"), "SEED=4294967296 should be a whole number"),
        (
            ("MODEL.MFDS_DETR.NUM_QUERIES", "0"),
            "NUM_QUERIES=0 should be a whole number from 1 to 10,000",
        ),
        (("MODEL.MFDS_DETR.NUM_HEADS", "5"), "divisible by NUM_HEADS=5"),
        (("MODEL.MFDS_DETR.NUM_CLASSES", "3"), "the datasets have 5 classes"),
        (("MODEL.MFDS_DETR.NECK.NAME", "fpm"), "unknown neck 'fpm'"),
        (("MODEL.MFDS_DETR.NECK.OPTIONS.widht", "3"), "widht"),
        (
            ("MODEL.MFDS_DETR.POSITION_ENCODING", "sin"),
            "POSITION_ENCODING='sin' should be one of sine",
        ),
        (
            ("MODEL.MFDS_DETR.LOSS.FOCAL_ALPHA_RULE", "fractions"),
            "FOCAL_ALPHA_RULE='fractions' should be one of constant",
        ),
        (("MODEL.TIMM.NAME", "resnet19"), "'resnet19' is no timm model"),
        (("INPUT.ALBUMENTATIONS.PRESET", "strong"), "'strong' is unknown"),
        (("MODEL.WEIGHTS", "nowhere.pth"), "nowhere.pth: no such file"),
        (("SOLVER.AMP.PRECISION", "float8"), "should be one of float16, bfloat16"),
        (("SOLVER.MAX_ITER",), "SOLVER.MAX_ITER"),
        (("DATASETS.TRAIN", "()"), "DATASETS.TRAIN is empty: name a dataset"),
        (("DATASETS.TEST", "()", "--eval-only"), "DATASETS.TEST is empty: name a dataset"),
        (("--num-machines", "2"), "the address of the first one; see --dist-url"),
        (("--machine-rank", "1"), "machine 1 of 1: the ranks start from 0; see --machine-rank"),
        (("MODEL.META_ARCHITECTURE", "RetinaNet"), "use MFDSDETR"),
        (("MODEL.BACKBONE.NAME", "build_nothing"), "the model cannot be built"),
        (("MODEL.TIMM.OPTIONS.channels", "[60000, 60000, 60000, 60000]"), "the free memory is"),
        (("MODEL.TIMM.OPTIONS.channels", "[0, 0, 0, 0]"), "cannot be"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_mistakes_in_the_config(override, message, command, smears, refusal):
    assert message in refusal(command(*smears, *override))


def test_mistakes_in_config_files(command, smears, tmp_path, refusal):
    for name, text, message in (
        ("unknown.yaml", "MODEL:\n  MFDS_DETR:\n    QUERIES: 3\n", "QUERIES"),
        ("code.yaml", "OUTPUT_DIR: !!python/object/apply:os.getcwd []\n", "code.yaml"),
        ("broken.yaml", "MODEL: [", "broken.yaml"),
        ("nowhere.yaml", None, "nowhere.yaml"),
    ):
        if text is not None:
            (tmp_path / name).write_text(text)
        arguments = command(*smears)
        arguments[arguments.index("--config-file") + 1] = str(tmp_path / name)
        assert message in refusal(arguments)


def test_an_unknown_dataset(command, smears, refusal):
    shown = refusal(command(*smears, "DATASETS.TRAIN", "('others',)"), code=1)
    assert '"others" is unknown' in shown


def test_options_set_their_keys_and_may_follow_them():
    parser = CommandParser(load=lambda: train)
    words = ["SEED", "1", "--output", "here", "--workers", "3", "SOLVER.MAX_ITER", "7"]
    words += ["--config", "mfds_detr_tiny_bccd", "--weights", "mine.pth", "--batch-size", "4"]
    cfg = train.read_run_config(parser.parse_args(words))
    assert (cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS, cfg.SEED) == ("here", "mine.pth", 1)
    assert (cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH) == (3, 4)
    assert cfg.SOLVER.MAX_ITER == 7
    assert cfg.DATASETS.TRAIN == ("bccd_trainval",)
    # The overrides win, and options that are not given leave the config as it is
    cfg = train.read_run_config(parser.parse_args(["--output", "here", "OUTPUT_DIR", "there"]))
    assert (cfg.OUTPUT_DIR, cfg.SEED) == ("there", -1)


@pytest.mark.parametrize(("error", "code"), [(DataError, 1), (FloatingPointError, 2)])
def test_an_expected_error_ends_a_process_with_one_message(monkeypatch, caplog, error, code):
    def fail(cfg, options):
        raise error("image 3 is bad")

    monkeypatch.setattr(engine, "run", fail)
    with pytest.raises(SystemExit) as caught:
        run_command(train, [])
    assert caught.value.code == code
    assert [record.getMessage() for record in caplog.records] == ["image 3 is bad"]
    assert caught.value.__suppress_context__


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(engine, "run", lambda cfg, options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_command(train, [])


def test_no_dataset_at_all(command, smears, refusal):
    shown = refusal(command(*smears, "DATASETS.TRAIN", "()", "DATASETS.TEST", "()"))
    assert "DATASETS.TRAIN is empty: name a dataset" in shown


def test_an_unknown_key_in_a_real_run(command, smears, start):
    worker = start(command(*smears, "MODEL.MFDS_DETR.QUERIES", 3))
    assert worker.wait() == 2
    assert worker.text.count("MODEL.MFDS_DETR.QUERIES") == 1
    assert "Traceback" not in worker.text


def test_a_corrupt_image_in_a_real_run(command, smears, tmp_path, start):
    # The header is sound, so only decoding finds the damage
    images = tmp_path / "images"
    shutil.copytree(smears.images, images)
    for path in images.iterdir():
        path.write_bytes(path.read_bytes()[:2000])
    worker = start(command(smears.json_file, images))
    assert worker.wait() == 1
    assert re.search(r"images/smear_00000\d\.png: the image cannot be read", worker.text)
    assert "Traceback" not in worker.text


@pytest.mark.timeout(600)
def test_kill_and_resume(command, smears, tmp_path, start):
    output = tmp_path / "output"
    generator = random.Random(int.from_bytes(os.urandom(4), "big"))
    moments = [generator.uniform(0, 1.5) for _ in range(3)]
    newest = -1
    for attempt, moment in enumerate(moments):
        flags = ["--resume"] if attempt else []
        worker = start(command(*smears, "SOLVER.MAX_ITER", 5000, flags=flags))
        deadline = time.monotonic() + 150
        while latest_iteration(output) <= newest and time.monotonic() < deadline:
            assert worker.is_alive, worker.text
            time.sleep(0.02)
        time.sleep(moment)
        assert worker.kill() == -signal.SIGKILL
        assert latest_iteration(output) > newest, f"no progress before the kill after {moment} s"
        newest = latest_iteration(output)
        checkpoints = list(output.glob("model_*.pth"))
        assert checkpoints
        for path in checkpoints:
            assert read_checkpoint(path)["iteration"] >= 0, moments
    flags = ["--resume", "--allow-config-change", "SOLVER.MAX_ITER"]
    # A kill between a checkpoint and the note that it is the last one goes back by one
    last = int((output / "last_checkpoint").read_text()[6:-4])
    assert newest - last in (0, 1)
    worker = start(command(*smears, "SOLVER.MAX_ITER", newest + 3, flags=flags))
    assert worker.wait() == 0, worker.text
    assert f"Training from iteration {last + 1} to {newest + 3}" in worker.text
    assert read_checkpoint(output / "model_final.pth")["iteration"] == newest + 2
    assert not list(output.glob(".model*")), "half-written files are left"


def latest_iteration(output):
    found = [int(path.stem[6:]) for path in output.glob("model_0*.pth")]
    return max(found, default=-1)


def test_the_generated_fixture_is_what_the_tests_think(smears):
    with Image.open(smears.images / "smear_000002.png") as image:
        assert image.size == (160, 120)
    assert len(json.loads(smears.json_file.read_text())["annotations"]) >= 6
    assert torch.get_default_dtype() == torch.float32
