"""The code makes no unsafe call, and importing it opens no connection."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for folder in ("wbcnets", "projects", "tools", "datasets")
    for path in (ROOT / folder).rglob("*.py")
)
# Full names of calls, with the keyword and value that make a call safe
BANNED = {
    "torch.load": ("weights_only", True),
    "yaml.load": ("Loader", "safe"),
    "yaml.unsafe_load": None,
    "yaml.full_load": None,
    "yaml.load_all": None,
    "pickle.load": None,
    "pickle.loads": None,
    "pickle.Unpickler": None,
    "marshal.loads": None,
    "shelve.open": None,
    "eval": None,
    "exec": None,
    "compile": None,
    "os.system": None,
    "os.popen": None,
    "xml.etree.ElementTree.parse": None,
    "xml.etree.ElementTree.fromstring": None,
    "torch.jit.load": None,
    "torch.hub.load": None,
    "torch.serialization.load": None,
    "torch.export.load": None,
    # SECURITY.md says that OpenCV decodes no file of others
    "cv2.imread": None,
    "cv2.imdecode": None,
    "cv2.VideoCapture": None,
    "cv2.FileStorage": None,
}
METHODS = {
    "extractall": ("filter", "data"),
    "extract": ("filter", "data"),
    "merge_from_file": ("allow_unsafe", False),
}
# Subclasses of PyYAML's safe loader
SAFE_LOADERS = {"SafeLoader", "StrictLoader", "_Loader", "loader"}


def name_of(node):
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def is_safe(call, condition):
    if condition is None:
        return False
    keyword, wanted = condition
    given = {entry.arg: entry.value for entry in call.keywords}
    if wanted == "safe":
        loader = given.get(keyword, call.args[1] if len(call.args) > 1 else None)
        return loader is not None and name_of(loader).split(".")[-1] in SAFE_LOADERS
    value = given.get(keyword)
    return isinstance(value, ast.Constant) and value.value is wanted


def unsafe_calls(source):
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        for found, rules in ((name, BANNED), (method, METHODS)):
            if found in rules and not is_safe(node, rules[found]):
                yield f"{node.lineno}: {found}"
        for keyword in node.keywords:
            if keyword.arg in ("shell", "allow_pickle", "trust_remote_code"):
                constant = keyword.value
                if not (isinstance(constant, ast.Constant) and constant.value is False):
                    yield f"{node.lineno}: {keyword.arg}"


def test_no_unsafe_call():
    assert len(SOURCES) > 150
    found = [f"{p.relative_to(ROOT)}:{o}" for p in SOURCES for o in unsafe_calls(p.read_text())]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text)",
        "yaml.load(text, yaml.Loader)",
        "pickle.load(f)",
        "subprocess.run(x, shell=True)",
        "np.load(x, allow_pickle=True)",
        "archive.extractall(folder)",
        "cfg.merge_from_file(x)",
        "eval(x)",
    ],
)
def test_unsafe_calls_are_found(code):
    assert list(unsafe_calls(code))


# The first versions without a known way to run code or to leave a buffer in what this library calls
SAFE_VERSIONS = {
    "pillow": "13.0",  # decodes JPEG and TIFF
    "timm": "1.0.26",  # reads weights
    "torch": "2.10",  # reads weights, as data alone
    "torchvision": "0.25",  # the release for that torch
    "pyyaml": "6",  # reads configs
}


@pytest.mark.parametrize("name", SAFE_VERSIONS)
def test_no_version_with_known_holes_is_allowed(name):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    floors = dict(entry.split(">=") for entry in project["dependencies"])
    assert Version(floors[name]) >= Version(SAFE_VERSIONS[name])
    row = next(
        line for line in (ROOT / "SECURITY.md").read_text().splitlines() if f"| {name} " in line
    )
    assert f"| {SAFE_VERSIONS[name]} |" in row


def test_imports_and_shipped_weights_need_no_network(tmp_path):
    """Imports every module and loads shipped weights in a process without sockets."""
    code = f"""
import socket, sys, pkgutil, importlib
def refuse(self, address):
    if self.family != getattr(socket, "AF_UNIX", None):
        print("CONNECTION", address)
    raise OSError("no network in this test")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = lambda *args, **kwargs: print("LOOKUP", args) or []
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "projects" / "mfds_detr")!r}]
import wbcnets, timm
for module in pkgutil.walk_packages(wbcnets.__path__, "wbcnets."):
    if module.name.split(".")[-1] != "__main__":
        importlib.import_module(module.name)
timm.create_model("resnext_cc_26.pbc", pretrained=True)
try:
    import detectron2
except ImportError:
    pass
else:
    import mfds_detr.api, mfds_detr.cli.predict
print("imported", len([name for name in sys.modules if name.startswith("wbcnets")]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert "CONNECTION" not in done.stdout
    assert "LOOKUP" not in done.stdout
    assert int(done.stdout.split("imported")[1]) > 100
