import hashlib
import importlib.util
import io
import os
import socket
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from wbcnets.cli import install_detectron2
from wbcnets.cli.install_detectron2 import download, wheel
from wbcnets.cli.install_detectron2.download import InstallError, make_finder, parse_pip_config
from wbcnets.cli.install_detectron2.wheel import PATCHES, Patch, apply_patches, read_sources
from wbcnets.cli.main import main

SAMPLES = {
    "detectron2/__init__.py": '__version__ = "0.5"\n',
    "detectron2/data/build.py": "import numpy as np\nzeros = np.zeros(3, dtype=np.int)\n",
    "detectron2/data/transforms.py": "def resize(interp=Image.LINEAR):\n    return interp\n",
    "detectron2/model_zoo/model_zoo.py": (
        "import os\nimport pkg_resources\n\n\ndef find(name):\n"
        "    return pkg_resources.resource_filename(\n"
        '        "detectron2.model_zoo", os.path.join("configs", name)\n    )\n'
    ),
    "detectron2/model_zoo/configs/base.yaml": "VERSION: 2\n",
    "detectron2/engine/launch.py": (
        "def worker(local_rank, gpus):\n"
        '    assert torch.cuda.is_available(), "no GPU"\n'
        '    start(backend="NCCL")\n'
        "    assert gpus <= torch.cuda.device_count()\n"
        "    torch.cuda.set_device(local_rank)\n"
    ),
    "LICENSE": "the license text\n",
    "setup.py": "raise SystemExit('nobody runs this')\n",
}


def write_archive(path: Path, files: dict[str, str] = SAMPLES) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"detectron2_cdo-0.5/{name}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


def patched(name: str) -> str:
    return apply_patches({key: text.encode() for key, text in SAMPLES.items()})[name].decode()


@pytest.fixture
def no_pip(monkeypatch):
    """Fails the test if anything is installed into the environment that runs it."""

    def refuse(path):
        pytest.fail(f"{path} would have been installed")

    monkeypatch.setattr(install_detectron2, "pip_install", refuse)


@pytest.fixture
def bare_pip_config(monkeypatch):
    """Leaves pip without configuration, and every request without a proxy."""
    for name in list(os.environ):
        if name.startswith("PIP_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


@pytest.fixture
def fake_detectron2(tmp_path, monkeypatch):
    """Puts a package `detectron2` with the given text in front of all others."""

    def place(text: str) -> None:
        package = tmp_path / "site" / "detectron2"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(text)
        for name in [key for key in sys.modules if key.partition(".")[0] == "detectron2"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(package.parent)

    yield place
    sys.modules.pop("detectron2", None)


def assert_names_ways_out(text: str) -> None:
    for way in ("--sdist FILE", "PIP_INDEX_URL", "conda-forge", "0.6 or later"):
        assert way in text


def test_wrong_hash_is_an_error_with_ways_out(tmp_path, no_pip, capsys):
    archive = write_archive(tmp_path / "detectron2_cdo-0.5.tar.gz")
    assert main(["install-detectron2", "--force", "--sdist", str(archive)]) == 2
    text = capsys.readouterr().err
    assert hashlib.sha256(archive.read_bytes()).hexdigest() in text
    assert download.SHA256 in text
    assert_names_ways_out(text)


def test_missing_sdist_is_named(tmp_path, no_pip, capsys):
    assert main(["install-detectron2", "--force", "--sdist", str(tmp_path / "gone.tar.gz")]) == 2
    assert "gone.tar.gz cannot be read" in capsys.readouterr().err


def test_unreachable_index_is_an_error_with_ways_out(bare_pip_config, monkeypatch, no_pip, capsys):
    pytest.importorskip("unearth")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("PIP_INDEX_URL", f"http://name:secret@127.0.0.1:{port}/simple")
    assert main(["install-detectron2", "--force"]) == 2
    text = capsys.readouterr().err
    assert "could not be downloaded" in text
    assert f"127.0.0.1:{port}/simple" in text
    assert "secret" not in text
    assert_names_ways_out(text)


def test_no_index_without_links_is_an_error(bare_pip_config, monkeypatch, no_pip, capsys):
    pytest.importorskip("unearth")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert main(["install-detectron2", "--force"]) == 2
    assert_names_ways_out(capsys.readouterr().err)


def test_archive_of_a_local_mirror_is_fetched_and_checked(
    bare_pip_config, tmp_path, monkeypatch, no_pip, capsys
):
    pytest.importorskip("unearth")
    archive = write_archive(tmp_path / "detectron2_cdo-0.5.tar.gz")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert main(["install-detectron2", "--force", "--dry-run"]) == 2
    assert "Nothing was unpacked" in capsys.readouterr().err
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(download, "SHA256", digest)
    assert main(["install-detectron2", "--force", "--dry-run"]) == 0
    assert "all patches apply" in capsys.readouterr().out


def test_existing_installation_is_kept(fake_detectron2, no_pip, monkeypatch, capsys):
    fake_detectron2('__version__ = "9.9"\n')
    monkeypatch.setattr(install_detectron2, "is_outdated", lambda: False)
    assert main(["install-detectron2"]) == 0
    assert "detectron2 9.9 is installed and is kept" in capsys.readouterr().out


def test_broken_installation_is_reported_not_replaced(fake_detectron2, no_pip, capsys):
    fake_detectron2("raise OSError('libcudart.so.11.0: cannot open shared object file')\n")
    assert main(["install-detectron2"]) == 2
    text = capsys.readouterr().err
    assert "libcudart.so.11.0" in text
    assert "--force" in text


@pytest.mark.parametrize(("recipe", "outdated"), [(None, False), ("old", True), ("now", False)])
def test_only_an_own_earlier_build_is_outdated(tmp_path, monkeypatch, recipe, outdated):
    info = tmp_path / "detectron2-0.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: detectron2\nVersion: 0.5\n")
    if recipe is not None:
        digest = wheel.recipe_digest() if recipe == "now" else recipe
        (info / wheel.MARKER).write_text(digest)
    monkeypatch.syspath_prepend(tmp_path)
    assert install_detectron2.is_outdated() is outdated


def test_numpy_names_become_python_types_and_sized_types_stay():
    source = b"a = np.bool, np.int, np.float, np.object\nb = np.bool_, np.int64, np.float32\n"
    done = apply_patches({"detectron2/x.py": source}, PATCHES[:1])["detectron2/x.py"]
    assert done == b"a = bool, int, float, object\nb = np.bool_, np.int64, np.float32\n"


def test_patched_model_zoo_finds_its_configs_beside_itself(tmp_path):
    scope = {"__file__": str(tmp_path / "model_zoo.py")}
    exec(patched("detectron2/model_zoo/model_zoo.py"), scope)
    assert scope["find"]("base.yaml") == str(tmp_path / "configs" / "base.yaml")


@pytest.mark.parametrize("gpus", [0, 2])
def test_patched_launch_takes_gloo_only_without_a_gpu(gpus):
    calls = []

    class Cuda:
        is_available = staticmethod(lambda: gpus > 0)
        device_count = staticmethod(lambda: gpus)
        set_device = staticmethod(calls.append)

    torch = type("torch", (), {"cuda": Cuda})
    scope = {"torch": torch, "start": lambda backend: calls.append(backend)}
    exec(patched("detectron2/engine/launch.py"), scope)
    scope["worker"](1, 2)
    assert calls == (["NCCL", 1] if gpus else ["GLOO"])


def test_patches_that_match_nothing_are_all_listed():
    patches = [Patch("a/*.py", "alpha", "", "first"), Patch("a/*.py", "beta", "", "second")]
    with pytest.raises(InstallError, match=r"(?s)'alpha' \(first\).*'beta' \(second\)"):
        apply_patches({"a/x.py": b"gamma\n"}, patches)


def test_paths_that_leave_the_archive_stay_out(tmp_path):
    archive = write_archive(tmp_path / "x.tar.gz", {"detectron2/../../evil.py": "x\n"})
    assert read_sources(archive) == {}


def test_a_clock_in_1970_is_no_obstacle(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 0.0)
    path = wheel.write_wheel({"detectron2/__init__.py": b""}, tmp_path)
    with zipfile.ZipFile(path) as content:
        assert content.testzip() is None


def test_wheel_is_complete_and_its_operators_explain_themselves(tmp_path):
    archive = write_archive(tmp_path / "x.tar.gz")
    sources = apply_patches(read_sources(archive))
    path = wheel.write_wheel(sources, tmp_path)
    with zipfile.ZipFile(path) as content:
        record = content.read("detectron2-0.5.dist-info/RECORD").decode().splitlines()
        assert {line.split(",")[0] for line in record} == set(content.namelist())
        for name, digest, size in (line.split(",") for line in record if ",," not in line):
            assert wheel.record_hash(content.read(name)) == digest
            assert len(content.read(name)) == int(size)
        names = content.namelist()
    assert "detectron2/model_zoo/configs/base.yaml" in names
    assert "detectron2-0.5.dist-info/licenses/LICENSE" in names
    assert "setup.py" not in names
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*command, "--target", str(site), str(path)], check=True)
    script = "from detectron2 import _C, __version__; print(__version__); _C.nms_rotated"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "0.5\n"
    assert "ImportError: detectron2's compiled operator 'nms_rotated'" in done.stderr


def test_operator_module_answers_the_environment_report_and_probes():
    spec = importlib.util.spec_from_file_location("_C", wheel.OPERATORS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not hasattr(module, "__wrapped__")
    assert "pure-Python" in module.get_compiler_version()
    assert "pure-Python" in module.get_cuda_version()
    assert module.has_cuda() is False
    with pytest.raises(ImportError, match=r"'roi_align_rotated_forward'.*use_fast_impl=False"):
        _ = module.roi_align_rotated_forward


def test_pip_environment_beats_install_section_beats_global():
    settings = parse_pip_config(
        ":env:.index-url='c'\nglobal.index-url='a'\ninstall.index-url='b'\n"
        "global.extra-index-url='one\\ntwo'\nnot a setting\n"
    )
    assert settings["index-url"] == "c"
    assert settings["extra-index-url"].split() == ["one", "two"]


def test_extra_indexes_are_asked_beside_the_default_one():
    pytest.importorskip("unearth")
    default = make_finder({}).sources
    sources = make_finder({"extra-index-url": "file:///one"}).sources
    assert [source["url"] for source in sources] == [default[0]["url"], "file:///one"]
