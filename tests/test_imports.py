"""Imports run one way: io, ops -> layers, losses, data -> models -> engine -> ... -> cli."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# A room imports rooms of its own line or of lines above it
ORDER = (
    ("errors", "version"),
    ("io", "ops"),
    ("layers", "losses", "data", "synthetic"),
    ("models",),
    ("engine",),
    ("evaluation",),
    ("train",),
    ("benchmark",),
    ("__init__", "__main__", "cli"),
)
LEVELS = {room: level for level, rooms in enumerate(ORDER) for room in rooms}


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "wbcnets":
            yield from (f"wbcnets.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def upward_imports():
    for path in sorted((ROOT / "wbcnets").rglob("*.py")):
        own = path.relative_to(ROOT / "wbcnets").parts[0].removesuffix(".py")
        for module in imported_modules(path):
            if module.split(".")[0] == "wbcnets" and LEVELS[room_of(module)] > LEVELS[own]:
                yield f"{path.relative_to(ROOT)} imports {module}"


def test_every_room_has_its_line():
    rooms = {path.name.removesuffix(".py") for path in (ROOT / "wbcnets").iterdir()}
    assert rooms - {"__pycache__", "py.typed"} == set(LEVELS)


def test_imports_run_one_way():
    assert list(upward_imports()) == []


def test_the_library_never_imports_the_detector():
    for path in (ROOT / "wbcnets").rglob("*.py"):
        roots = {module.split(".")[0] for module in imported_modules(path)}
        assert not roots & {"detectron2", "mfds_detr"}, path
