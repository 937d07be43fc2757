"""Imports run one way, io, ops -> layers, losses, data -> models -> engine ..., without cycles."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"wbcnets": ROOT / "wbcnets", "mfds_detr": ROOT / "projects/mfds_detr/mfds_detr"}
# A room imports from its own line and the lines above
ORDER = (
    ("errors", "version"),
    ("io", "ops"),
    ("layers", "losses", "data", "synthetic"),
    ("models",),
    ("engine",),
    ("evaluation",),
    ("train",),
    ("benchmark",),
    ("__init__", "__main__", "api", "cli"),
)
LEVELS = {room: level for level, rooms in enumerate(ORDER) for room in rooms}


def modules_of(package):
    """Returns the trees of a package's modules by their dotted names."""
    root = PACKAGES[package].parent
    trees = {}
    for path in sorted(PACKAGES[package].rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        trees[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text())
    return trees


MODULES = {package: modules_of(package) for package in PACKAGES}
ALL_MODULES = {name: tree for trees in MODULES.values() for name, tree in trees.items()}


def imported_by(statements):
    """Returns the modules that statements import, and the modules around these."""
    for node in statements:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in ALL_MODULES else node.module


def runs_at_import(tree):
    """Returns a module's statements outside functions and `if TYPE_CHECKING`."""
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        yield node
        is_typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not is_typing and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            waiting += ast.iter_child_nodes(node)


def packages_around(name):
    parts = name.split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts))}


def room_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_every_room_has_its_line():
    assert {room_of(name) for name in MODULES["wbcnets"]} == set(LEVELS)


def test_imports_run_one_way():
    upward = [
        f"{name} imports {module}"
        for name, tree in MODULES["wbcnets"].items()
        for module in imported_by(ast.walk(tree))
        if module.split(".")[0] == "wbcnets" and LEVELS[room_of(module)] > LEVELS[room_of(name)]
    ]
    assert upward == []


def test_no_module_imports_itself_by_a_detour():
    """Any module can be imported first: importing one also runs the packages around it."""
    graph = {}
    for name, tree in ALL_MODULES.items():
        own = packages_around(name)
        imported = set(imported_by(runs_at_import(tree)))
        around = set().union(*map(packages_around, imported)) - own - {name}
        graph[name] = (imported | around) & ALL_MODULES.keys()
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" <- ".join(error.args[1])) from None


def test_the_library_never_imports_the_detector():
    for name, tree in MODULES["wbcnets"].items():
        roots = {module.split(".")[0] for module in imported_by(ast.walk(tree))}
        assert not roots & {"detectron2", "mfds_detr"}, name
