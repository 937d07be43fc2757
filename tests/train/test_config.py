import typing

import pytest
import yaml

from wbcnets.data.cards.classification import CLASSIFICATION_CARDS
from wbcnets.data.cells.augmentation import PRESETS
from wbcnets.engine.precision import AMP_DTYPES
from wbcnets.engine.resume import flatten_settings
from wbcnets.errors import ConfigError
from wbcnets.train.config import TrainConfig, TrainingConfig
from wbcnets.train.config_file import (
    PRESET_FOLDER,
    dump_config,
    known_keys,
    load_config,
    preset_names,
    save_config,
    text_override,
)


def test_without_a_file_all_settings_are_the_defaults():
    assert load_config() == TrainConfig()
    assert flatten_settings(TrainConfig().model_dump()).keys() <= set(known_keys())


def test_amp_names_the_types_of_the_engine():
    amp = TrainingConfig.model_fields["amp"].annotation
    assert typing.get_args(amp) == tuple(AMP_DTYPES)


def test_overrides_go_before_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("optimizer: {lr: 0.5, name: sgd}\nmodel: {kwargs: {depth: 2}}\n")
    config = load_config(
        path,
        [
            "optimizer.lr=1e-3",
            "model.kwargs.embed_dim=48",
            "data.mean=[0, 0, 0]",
            "loss.name={cross_entropy: 1, contrastive: 0.5}",
            "data.source=",
        ],
    )
    assert config.optimizer.lr == 1e-3
    assert config.optimizer.name == "sgd"
    assert config.model.kwargs == {"depth": 2, "embed_dim": 48}
    assert config.data.mean == [0.0, 0.0, 0.0]
    assert config.loss.name == {"cross_entropy": 1.0, "contrastive": 0.5}
    assert config.data.source == ""


def test_numbers_are_read_as_people_write_them(tmp_path):
    text = ["8:2", "1e-3", "-3", ".5", "5.", "2024-01-01", "007", "1.2.3", "true", "null", "1e3"]
    values = [load_config("", [f"model.kwargs.x={word}"]).model.kwargs["x"] for word in text]
    assert values == ["8:2", 1e-3, -3, 0.5, 5.0, "2024-01-01", "007", "1.2.3", True, None, 1e3]
    assert [type(value) for value in values[1:5]] == [float, int, float, float]
    config = load_config("", ["data.split_protocol=7:1:2", "data.source=007"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


def test_what_is_saved_is_read_again(tmp_path):
    config = load_config("conv_sparse_vit_aml", ["output=runs/x", "data.std=[0.1, 0.2, 0.3]"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert set(yaml.safe_load(dump_config(config))) == set(TrainConfig.model_fields)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rate=1", r"learning_rate: unknown key; did you mean optimizer\.lr"),
        ("batch_size=1", r"batch_size: unknown key; did you mean training\.batch_size"),
        ("training.epoch=3", r"training\.epoch: unknown key; did you mean training\.epochs"),
        ("optim.name=sgd", r"optim: unknown key"),
        ("data.zzz=1", r"data\.zzz: unknown key; known are data\.source"),
        ("training.epochs=two", r"training\.epochs='two' should be a valid integer"),
        ("training.epochs=true", r"training\.epochs=True should be a valid integer"),
        ("training.epochs=2.5", r"training\.epochs=2\.5 should be a valid integer"),
        ("training.compile=1", r"training\.compile=1 should be a valid boolean"),
        ("training.compile=yes", r"training\.compile='yes' should be a valid boolean"),
        ("output=3", r"output=3 should be a valid string"),
        ("data.mean=[0, x, 0]", r"data\.mean\[1\]='x' should be a valid number"),
        ("loss.name={center: x}", r"loss\.name\.center='x' should be a valid number"),
        ("model.kwargs=3", r"model\.kwargs=3 should be a valid dictionary"),
        ("data=pbc", r"data='pbc' should be a section of keys"),
        ("epochs", r"'epochs': expected KEY=VALUE"),
        ("data.mean=[", r"the value is not valid YAML"),
        ("training.batch_size=0", r"training\.batch_size=0 should be greater than or equal to 1"),
        ("optimizer.lr=0", r"optimizer\.lr=0 should be greater than or equal to 0\.000000001"),
        ("optimizer.lr=.nan", r"optimizer\.lr=nan should be a finite number"),
        ("training.ema_decay=1", r"training\.ema_decay=1 should be less than 1"),
        ("training.amp=bf16", r"training\.amp='bf16' should be 'none', 'bfloat16' or 'float16'"),
        ("data.workers=-2", r"data\.workers=-2 should be greater than or equal to -1"),
        ("schedule.warmup_epochs=30", r"should be less than training\.epochs=30"),
        ("data.workers=100000", r"data\.workers=100000 should be at most 64 .* has \d+ CPUs"),
        ("data.img_size=1", r"data\.img_size=1 should be greater than or equal to 8"),
        ("data.img_size=100000", r"data\.img_size=100000 should be less than or equal to 4096"),
        ("data.mean=[0, 0]", r"data\.mean=\[0, 0\] List should have at least 3 items"),
        ("data.mean=[.nan, 0, 0]", r"data\.mean\[0\]=nan should be"),
        ("data.mean=[128, 0, 0]", r"data\.mean\[0\]=128 should be less than or equal to 1"),
        ("data.std=[1, 0, 1]", r"data\.std\[1\]=0 should be greater than or equal to 0\.001"),
        ("data.std=[1, 1, -1]", r"data\.std\[2\]=-1 should be greater"),
        ("data.repeats={a: 0}", r"data\.repeats\.a=0 should be greater than or equal to 1"),
        ("data.val_augmentation=flips", r"data\.val_augmentation='flips' is random or unknown"),
        ("data.val_augmentation=no", r"for evaluation there are none, sckansformer_eval"),
        ("data.transforms=[{p: .nan}]", r"data\.transforms\[0\]\.p=nan is refused"),
        ("data.transforms=[{height: 99999}]", r"transforms\[0\]\.height=99999 .*at most 10,000"),
        ("optimizer.lr=.inf", r"optimizer\.lr=inf should be a finite number"),
        ("optimizer.lr=1e300", r"optimizer\.lr=1e\+300 should be less than or equal to 1000"),
        (
            "optimizer.lr=1e-300",
            r"optimizer\.lr=1e-300 should be greater than or equal to 0\.000000001",
        ),
        ("training.clip_grad=1e-300", r"training\.clip_grad=1e-300 should be 0, or from 1e-09"),
        ("training.clip_grad=-1", r"training\.clip_grad=-1 should be 0, or from 1e-09"),
        ("training.clip_grad=1e300", r"should be 0, or from 1e-09 to 1,000,000"),
        ("optimizer.kwargs={eps: 1.0e-300}", r"optimizer\.kwargs\.eps=1e-300 is refused: .*use 0"),
        ("optimizer.weight_decay=.inf", r"optimizer\.weight_decay=inf should be"),
        ("optimizer.betas=[0.9, 1]", r"optimizer\.betas\[1\]=1 should be less than 1"),
        ("optimizer.betas=[-1, 0.9]", r"optimizer\.betas\[0\]=-1 should be greater"),
        ("optimizer.kwargs={eps: .nan}", r"optimizer\.kwargs\.eps=nan is refused: .*out of range"),
        ("optimizer.kwargs={a: {b: .inf}}", r"optimizer\.kwargs\.a=.* is refused: b=inf"),
        ("loss.name={cross_entropy: .nan}", r"loss\.name\.cross_entropy=nan should be"),
        ("loss.name={cross_entropy: 0}", r"loss\.name\.cross_entropy=0 should be greater than"),
        ("loss.name={cross_entropy: -1}", r"loss\.name\.cross_entropy=-1 should be greater than"),
        ("loss.name={}", r"loss\.name=\{\} .*at least 1 item"),
        ("loss.options={focal: {gamma: .inf}}", r"loss\.options\.focal\.gamma=inf is refused"),
        ("model.kwargs={depth: 1000000000}", r"model\.kwargs\.depth=1000000000 is refused"),
        ("training.epochs=1000000000", r"training\.epochs=1000000000 should be less than"),
        ("schedule.milestones=[0]", r"schedule\.milestones\[0\]=0 should be greater"),
        ("schedule.milestones=[]", r"schedule\.milestones=\[\] List should have at least 1"),
        ("schedule.milestones=[9, 3]", r"schedule\.milestones=\[9, 3\] should ascend"),
        ("schedule.min_lr=1", r"schedule\.min_lr=1\.0 should be at most optimizer\.lr=0\.001"),
    ],
)
def test_wrong_keys_and_values_are_named(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config("", [override])


def test_the_rate_of_the_warmup_is_below_the_final_one():
    settings = ["schedule.warmup_lr=1", "schedule.warmup_epochs=2"]
    assert load_config("", settings[:1]).schedule.warmup_lr == 1
    with pytest.raises(ConfigError, match=r"schedule\.warmup_lr=1\.0 should be at most"):
        load_config("", settings)


def test_all_problems_are_listed_at_once():
    with pytest.raises(ConfigError) as caught:
        load_config("", ["training.epoch=3", "data.workers=x", "nothing=1", "device=tpu"])
    assert str(caught.value).count("\n  - ") == 4


def test_files_that_are_no_settings(tmp_path):
    with pytest.raises(ConfigError, match="presets are adapt_cpu, conv_sparse_vit_aml"):
        load_config("nothing")
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match="holds a list"):
        load_config(path)
    path.write_text("a: [\n")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load_config(path)
    path.write_text("a: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load_config(path)
    path.write_text("")
    assert load_config(path) == TrainConfig()


@pytest.mark.parametrize("name", preset_names())
def test_presets_name_what_there_is(name):
    config = load_config(name)
    cards = [CLASSIFICATION_CARDS[part] for part in config.data.source.split("+") if part]
    # A preset for the data of others names none
    assert cards or name == "adapt_cpu"
    assert config.data.augmentation in PRESETS
    assert config.data.val_augmentation in PRESETS
    assert config.data.repeats == {n: times for c in cards for n, times in c.repeats.items()}
    text = (PRESET_FOLDER / f"{name}.yaml").read_text()
    assert text.startswith("# "), "a preset says where its settings are from"
    assert "ours" in text.lower()


def test_presets_hold_the_papers_settings():
    sck = load_config("sckansformer_pbc")
    assert (sck.training.epochs, sck.training.batch_size, sck.optimizer.name) == (100, 128, "adam")
    sparse = load_config("conv_sparse_vit_aml")
    assert sparse.schedule.milestones == [40, 70, 90]
    assert (sparse.optimizer.lr, sparse.optimizer.weight_decay) == (1e-3, 5e-4)
    assert load_config("resnext_cc_cnmc").loss.name == "resnext_cc"


def test_what_was_compared_differs_in_the_model_and_the_epochs_alone():
    ours, plain = load_config("sckansformer_tiny_pbc_cpu"), load_config("resnet18_pbc_cpu")
    assert ours.data == plain.data
    assert ours.optimizer == plain.optimizer
    assert ours.loss == plain.loss
    assert ours.training.ema_decay == plain.training.ema_decay == 0.998
    assert load_config("resnext_cc_26_pbc_cpu").data.transforms == plain.data.transforms


def test_limits_hold_in_python_too():
    config = TrainConfig()
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        config.training.epochs = 0
    with pytest.raises(ValueError, match="no attribute"):
        config.training.epoch = 3
    with pytest.raises(ValueError, match="choose one"):
        load_config("", ["model.pretrained=true", "model.weights=mine.pth"])


def test_text_that_is_a_number_is_read_as_one():
    assert load_config("", ['optimizer.lr="1e-3"', "data.repeats={1: 2}"]).optimizer.lr == 1e-3
    assert load_config("", ["data.repeats={1: 2}"]).data.repeats == {"1": 2}


@pytest.mark.parametrize(
    "path", ["new\nline", "null", "1e3", "a #1", "{x: y}", "[", 'q"\\', "ü😀", "\t", "a: b", "  x "]
)
def test_a_path_is_no_yaml(path):
    config = load_config("", [text_override("output", path), text_override("data.source", path)])
    assert (config.output, config.data.source) == (path, path)


def test_all_keys_are_known():
    keys = known_keys()
    assert {"optimizer.lr", "data.img_size", "output"} <= set(keys)
    assert len(keys) == len(set(keys)) == 62


def test_a_file_that_is_no_config_gives_a_short_message(tmp_path):
    path = tmp_path / "other.yaml"
    path.write_text("".join(f'"key {n}\\e[31m": 1\n' for n in range(300)))
    message = r"key 0\\x1b\[31m: unknown key; known are model,"
    with pytest.raises(ConfigError, match=message) as error:
        load_config(path)
    assert len(str(error.value)) < 10_000
    assert str(error.value).endswith("... and 250 more")
