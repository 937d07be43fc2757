"""The documents are true: their Python runs, their commands parse, their links lead somewhere."""

import argparse
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from wbcnets.models.size import ModelSize

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "datasets/*.md", "projects/**/*.md", "wbcnets/**/*.md", "tests/**/*.md")
    for path in ROOT.glob(pattern)
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
NAMES = {path: str(path.relative_to(ROOT)) for path in DOCUMENTS}
# Commands of other programs are not ours to check
PROGRAMS = ("wbcnets ", "python ", "make ")


def code_blocks(text, *languages):
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return [body for language, body in blocks if language in languages]


def commands_of(text):
    """Returns our commands of console blocks, without variables and comments, and inline makes."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    blocks = "\n".join(code_blocks(text, "", "console", "bash", "sh"))
    lines = [*blocks.replace("\\\n", " ").splitlines(), *re.findall(r"`(make [^`]+)`", prose)]
    commands = []
    for line in lines:
        command = re.sub(r"^(\$ )?([A-Z_]+=\S* )*", "", line.strip())
        if command.startswith(PROGRAMS):
            commands.append(shlex.split(command, comments=True))
    return commands


def run_snippets(text, name):
    scope = {"__name__": "__main__"}
    for snippet in code_blocks(text, "python"):
        exec(compile(snippet, name, "exec"), scope)
    return scope


class ParsedError(BaseException):
    """Stops a command once its arguments are read; no handler of errors catches it."""


def parse_command(words, monkeypatch):
    """Gives a command's arguments to its own parser, and stops before it does anything."""
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets), words
        return
    arguments = ["-m", *words] if words[0] == "wbcnets" else words[1:]
    is_module = arguments[0] == "-m"
    monkeypatch.setattr(sys, "argv", arguments[1:] if is_module else arguments)
    for name in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, stopping(name))
    with pytest.raises((ParsedError, SystemExit)) as stopped:  # noqa: PT012
        if is_module:
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=False)
        else:
            monkeypatch.syspath_prepend(str((ROOT / arguments[0]).parent))
            runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
    if isinstance(stopped.value, SystemExit) and stopped.value.code != 0:  # 0 is that of --help
        raise stopped.value


def stopping(name):
    original = getattr(argparse.ArgumentParser, name)

    def parse_and_stop(self, args=None, namespace=None):
        original(self, args, namespace)
        raise ParsedError

    return parse_and_stop


ALL_COMMANDS = [
    pytest.param(words, id=f"{NAMES[document]}: {shlex.join(words)}")
    for document in DOCUMENTS
    for words in commands_of(document.read_text())
]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A working folder that sees the repository's files; what a snippet writes stays out of it."""
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name != "output":
            (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if "```python" in path.read_text()], ids=NAMES.get
)
def test_python_snippets_run(document, workplace):
    assert len(run_snippets(document.read_text(), NAMES[document])) > 1


def test_a_snippet_that_raises_fails():
    with pytest.raises(ZeroDivisionError):
        run_snippets("Text\n```python\nx = 1\n```\nand\n```python\nx / 0\n```\n", "planted")


@pytest.mark.parametrize("words", ALL_COMMANDS)
def test_commands_parse(words, workplace, monkeypatch):
    parse_command(words, monkeypatch)


def test_most_documents_show_commands():
    assert len(ALL_COMMANDS) > 30


@pytest.mark.parametrize(
    "command",
    [
        "wbcnets check --no-such-option x",
        "wbcnets no-such-command x",
        "python tools/no_such_tool.py",
        "python tools/demo.py --no-such-option",
        "make no-such-target",
    ],
)
def test_a_wrong_command_fails(command, workplace, monkeypatch):
    (words,) = commands_of(f"```console\n{command}  # comment\n```")
    with pytest.raises((AssertionError, SystemExit, FileNotFoundError)):
        parse_command(words, monkeypatch)


def anchors_of(path):
    headings = re.findall(r"^#+ (.*)$", path.read_text(), flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES.get)
def test_links_lead_somewhere(document):
    text = document.read_text()
    targets = re.findall(r"\]\(([^)\s]+)", text) + re.findall(r"(?:src|href)=\"([^\"]+)", text)
    missing = []
    for target in targets:
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        if "://" in target or target.startswith("mailto:"):
            continue
        if not path.exists() or (anchor and anchor not in anchors_of(path)):
            missing.append(target)
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES.get)
def test_named_files_exist(document):
    """Paths of the repository in inline code and commands."""
    folders = "wbcnets|projects|tools|tests"
    names = re.findall(rf"(?<![\w/.-])(?:{folders})/[\w./-]*\w", document.read_text())
    names += re.findall(r"(?<![\w/.-])datasets/\w+\.(?:py|md)\b", document.read_text())
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_the_table_of_models_is_current(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["model_table.py", "--check"])
    tool = runpy.run_path(str(ROOT / "tools" / "model_table.py"), run_name="__main__")
    assert tool["DOCUMENT"] == ROOT / "wbcnets" / "models" / "README.md"


def test_a_wrong_table_of_models_fails(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["model_table.py", "--check"])
    monkeypatch.setattr("wbcnets.list_models", lambda: ["resnext_cc_26"])
    monkeypatch.setattr("wbcnets.models.size.measure_registered", lambda name: ModelSize(1, 1))
    with pytest.raises(SystemExit, match="out of date"):
        runpy.run_path(str(ROOT / "tools" / "model_table.py"), run_name="__main__")
