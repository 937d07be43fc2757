#!/usr/bin/env python
"""Changes single operators, numbers and arguments in a copy of the sources, and tests each change.

Examples:
  make mutants
  make mutants ARGS='metrics matcher'                only these groups
  make mutants ARGS='metrics --survivors'            what no test noticed, with the present tests
  make mutants ARGS='metrics --report'               the results of their last run again

mutmut makes the changes and runs the tests that reach them. For each group of modules this script
copies the repository, because mutmut takes a module's name from its path, starts mutmut with the
tests of the group, and prints a table and the changes that no test noticed. It fails if a module
has too many.
"""

import argparse
import ast
import difflib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from tests.stress.mutants.groups import GROUPS, Group

COPIES = ROOT / "output" / "mutants"
COPIED = ("wbcnets", "tests", "projects", "tools", "pyproject.toml", "README.md")
LOWEST_SHARE = 0.85
# Exit codes of mutmut: no test failed, and no test reaches the function
SURVIVED = (0, 5, 33)


class Mutant(NamedTuple):
    """One change.

    Args:
        name: mutmut's name for it.
        exit_code: Of its tests; None if they did not run.
        difference: Lines of the function before and after.
        is_text: Whether only a text differs, mostly one of a message.
    """

    name: str
    exit_code: int | None
    difference: str
    is_text: bool

    @property
    def survived(self) -> bool:
        return self.exit_code in SURVIVED


def copy_sources(folder: Path, group: Group) -> None:
    """Copies the repository, with mfds_detr beside wbcnets as it is imported, to change a group."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in COPIED:
        if (ROOT / name).is_dir():
            copy_folder(ROOT / name, folder / name)
        else:
            shutil.copy2(ROOT / name, folder / name)
    copy_folder(ROOT / "projects/mfds_detr/mfds_detr", folder / "mfds_detr")
    settings = folder / "pyproject.toml"
    table = "[tool.mutmut]\n"
    selected = (
        f"only_mutate = {json.dumps(group.sources)}\n"
        f"pytest_add_cli_args_test_selection = {json.dumps(group.tests)}\n"
    )
    settings.write_text(settings.read_text().replace(table, table + selected))


def copy_folder(source: Path, target: Path) -> None:
    skipped = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(source, target, ignore=skipped, dirs_exist_ok=True)


def read_mutants(folder: Path) -> Iterator[tuple[str, list[Mutant]]]:
    """Yields the files of a run with their mutants."""
    for results in sorted((folder / "mutants").rglob("*.py.meta")):
        source = results.with_suffix("")
        codes = json.loads(results.read_text())["exit_code_by_key"]
        functions = {
            node.name: node
            for node in ast.walk(ast.parse(source.read_text()))
            if isinstance(node, ast.FunctionDef)
        }
        mutants = [mutant_of(name, code, functions) for name, code in codes.items()]
        if mutants:
            yield str(source.relative_to(folder / "mutants")), mutants


def mutant_of(name: str, exit_code: int | None, functions: dict[str, ast.FunctionDef]) -> Mutant:
    """Compares a changed function with the one it was made from."""
    changed = functions[name.rpartition(".")[2]]
    original = functions[changed.name.partition("__mutmut_")[0] + "__mutmut_orig"]
    before, after = (without_name(function) for function in (original, changed))
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    difference = "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))
    return Mutant(name, exit_code, difference, without_texts(before) == without_texts(after))


def without_name(function: ast.FunctionDef) -> str:
    return ast.unparse(function).replace(function.name, "function")


def without_texts(code: str) -> str:
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.dump(tree)


def table(files: list[tuple[str, list[Mutant]]]) -> str:
    """Returns one row per file: mutants, how many a test noticed, and the others."""
    rows = [
        "| module | mutants | killed | share | survivors | of these texts |",
        "| --- " * 6 + "|",
    ]
    for path, mutants in files:
        survivors = [mutant for mutant in mutants if mutant.survived]
        killed = len(mutants) - len(survivors)
        texts = sum(mutant.is_text for mutant in survivors)
        share = f"{killed / len(mutants):.1%}"
        rows.append(
            f"| `{path}` | {len(mutants)} | {killed} | {share} | {len(survivors)} | {texts} |"
        )
    return "\n".join(rows)


def survivors_of(folder: Path) -> list[str]:
    """Returns the names of the mutants of a run that no test noticed."""
    found = (mutant for _, mutants in read_mutants(folder) for mutant in mutants)
    return [mutant.name for mutant in found if mutant.survived]


def too_low(files: list[tuple[str, list[Mutant]]]) -> list[str]:
    """Returns the files in which tests notice too few changes."""
    return [
        path
        for path, mutants in files
        if sum(mutant.survived for mutant in mutants) > (1 - LOWEST_SHARE) * len(mutants)
    ]


def report(folders: Iterable[Path]) -> int:
    """Prints the survivors and the table of runs; returns the exit code."""
    files = [
        (path, tested)
        for folder in folders
        for path, mutants in read_mutants(folder)
        if (tested := [mutant for mutant in mutants if mutant.exit_code is not None])
    ]
    for path, mutants in files:
        for mutant in mutants:
            if mutant.survived:
                print(f"{path}: {mutant.name}\n{mutant.difference}\n")
    print(table(files))
    low = too_low(files)
    if low:
        print(f"\nFewer than {LOWEST_SHARE:.0%} killed in {', '.join(low)}: add tests that fail")
    return 1 if low or not files else 0


def run_mutmut(name: str, processes: int, survivors: bool) -> int:
    """Tests the mutants of a group, or only those that survived; returns mutmut's exit code."""
    folder = COPIES / name
    selected: list[str] = []
    if survivors:
        copy_folder(ROOT / "tests", folder / "tests")
        selected = survivors_of(folder)
        if not selected:
            return 0
    else:
        copy_sources(folder, GROUPS[name])
    mutmut = [sys.executable, "-m", "mutmut", "run", "--max-children", str(processes)]
    return subprocess.run([*mutmut, *selected], cwd=folder).returncode


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("groups", nargs="*", help=f"default: {' '.join(GROUPS)}")
    add("--processes", type=int, default=1, help="mutants to test at once, default %(default)s")
    add("--survivors", action="store_true", help="test only those of the last run again")
    add("--report", action="store_true", help="print the results of the last run again")
    args = parser.parse_args()
    names = args.groups or list(GROUPS)
    unknown = sorted(set(names) - set(GROUPS))
    if unknown:
        parser.error(f"no groups of modules: {', '.join(unknown)}; use {', '.join(GROUPS)}")
    for name in [] if args.report else names:
        code = run_mutmut(name, args.processes, args.survivors)
        if code:
            return code
    return report(COPIES / name for name in names)


if __name__ == "__main__":
    sys.exit(main())
