"""The documents say what is: their Python runs, and what they link to is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "datasets/*.md", "projects/*/*.md", "wbcnets/**/*.md")
    for path in REPOSITORY.glob(pattern)
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_python_snippets_run(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", document.read_text(), flags=re.DOTALL)
    scope = {}
    for snippet in snippets:
        names = len(scope)
        exec(compile(snippet, str(document), "exec"), scope)
        assert len(scope) > names


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_somewhere(document):
    targets = re.findall(r"\]\(([^)#\s]+)", document.read_text())
    local = [target for target in targets if "://" not in target]
    missing = [target for target in local if not (document.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_commands_name_files_that_are_there(document):
    scripts = re.findall(r"python ((?:projects|tools|datasets)/[\w/]+\.py)", document.read_text())
    configs = re.findall(r"projects/mfds_detr/configs/[\w/]+\.yaml", document.read_text())
    missing = [name for name in [*scripts, *configs] if not (REPOSITORY / name).exists()]
    assert not missing


def test_model_table_is_that_of_the_models():
    script = REPOSITORY / "tools" / "model_table.py"
    command = [sys.executable, script, "--check"]
    checked = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
