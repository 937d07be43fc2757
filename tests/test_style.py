"""The code reads alike everywhere: docstrings, spelling, messages, sizes; tests can fail."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("wbcnets", "projects", "tools", "datasets")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "Makefile", "pyproject.toml")
    for path in [
        *ROOT.glob(pattern),
        *(p for f in (*FOLDERS, "tests") for p in (ROOT / f).rglob(pattern)),
    ]
)
TREES = {path: ast.parse(path.read_text()) for path in (*SOURCES, *TESTS)}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# The rooms that know the switches of commands
COMMANDS = ("wbcnets/cli/", "projects/mfds_detr/mfds_detr/cli/", "tools/", "datasets/")
# A dataset card names the whole command that prepares the dataset
WHOLE_COMMANDS = ("wbcnets/data/cards/card.py",)
MAX_FILES, MAX_FILE_LINES, MAX_FUNCTION_LINES = 15, 450, 65
# A family of models is one file, however many parts it has
FAMILIES = ("wbcnets/models/conv_sparse_vit.py",)

BRITISH = re.compile(
    r"colour|centre|grey|neighbour|behaviour|favour|honour|licence|catalogue|judge|artefact"
    r"|analys(?:e[drs]?\b|ing)|defence|tumour|haemo|leucocyt|fulfil\b|modell(?:ed|ing)"
    r"|labell(?:ed|ing)|cancell(?:ed|ing)|travell(?:ed|ing)|signall(?:ed|ing)"
    r"|(?:normal|optim|initial|visual|general|serial|recogn|special|standard|summar|synchron"
    r"|token|util|vector|quant|random|regular|minim|maxim|penal|parametr|custom|factor)is(?:e|ing|ation)"
    r"|organis(?:e|ing|ation)",
    re.IGNORECASE,
)
# A class of a published dataset, and the titles of papers
BRITISH_NAMES = ("haemocytoblast",)


def named(path, line, text):
    return f"{path.relative_to(ROOT)}:{line}: {text}"


def assert_none(found):
    """Fails with one offender per line."""
    found = sorted(found)
    assert not found, "\n".join([f"{len(found)} found", *found])


def docstrings(path):
    """Returns the nodes of a file that have a docstring, with it."""
    kinds = (ast.Module, ast.ClassDef, *FUNCTIONS)
    for node in ast.walk(TREES[path]):
        text = ast.get_docstring(node) if isinstance(node, kinds) else None
        if text:
            yield node, getattr(node, "lineno", 1), text


def section(text, name):
    """Returns the entries of a section such as `Args:`, each in one line."""
    found = re.search(rf"^{name}:\n((?:    .*\n?|\n)+)", text + "\n", flags=re.MULTILINE)
    if found is None:
        return []
    lines = re.sub(r"\n {5,}", " ", found[1]).splitlines()
    return [line.strip() for line in lines if line.strip()]


def test_docstrings_begin_with_a_statement():
    words = ("What", "Who", "Whom", "Whose", "Where", "Which", "How")
    assert_none(
        named(path, line, text.splitlines()[0])
        for path in SOURCES
        for _, line, text in docstrings(path)
        if text.split()[0] in words
    )


def test_docstrings_quote_code_with_two_backticks():
    single = re.compile(r"(?<!`)`[^`\n]+`(?!`)")
    assert_none(
        named(path, line, single.search(text)[0])
        for path in SOURCES
        for _, line, text in docstrings(path)
        if single.search(text)
    )


def test_spelling_is_american():
    found = []
    for path in (*SOURCES, *TESTS, *DOCUMENTS):
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for name in BRITISH_NAMES:
                line = line.replace(name, "")
            found += [named(path, number, word[0]) for word in BRITISH.finditer(line)]
    assert_none(found)


def parameters(node):
    """Returns what a function or the constructor of a class takes; None if it is inherited."""
    if isinstance(node, ast.ClassDef):
        constructors = [n for n in node.body if isinstance(n, FUNCTIONS) and n.name == "__init__"]
        if constructors:
            return parameters(constructors[0])
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
        names = [n.target.id for n in fields if is_parameter(n)]
        return names if names else None
    if not isinstance(node, FUNCTIONS):
        return None
    a = node.args
    names = [arg.arg for arg in (*a.posonlyargs, *a.args)]
    names += [a.vararg.arg] if a.vararg else []
    names += [arg.arg for arg in a.kwonlyargs]
    names += [a.kwarg.arg] if a.kwarg else []
    return [name for name in names if name not in ("self", "cls")]


def is_parameter(field):
    value = ast.unparse(field.value) if field.value else ""
    is_class_variable = "ClassVar" in ast.unparse(field.annotation)
    return not (is_class_variable or "init=False" in value or field.target.id.startswith("_"))


def test_args_sections_name_the_parameters():
    found = []
    for path in SOURCES:
        for node, line, text in docstrings(path):
            documented = [
                name.strip(" *")
                for entry in section(text, "Args")
                for name in entry.partition(":")[0].split(",")
            ]
            actual = parameters(node)
            if documented and actual is not None and documented != actual:
                found.append(named(path, line, f"{node.name}: {documented}, not {actual}"))
    assert_none(found)


def test_raises_sections_give_conditions():
    assert_none(
        named(path, line, entry)
        for path in SOURCES
        for _, line, text in docstrings(path)
        for entry in section(text, "Raises")
        if not re.match(r"\w+(Error|Interrupt|Exit|Exception): if ", entry)
    )


def test_the_library_names_no_switch():
    """Errors say what is wrong; the command line adds its switch. A lone switch is an argument."""
    found = []
    for path in SOURCES:
        place = str(path.relative_to(ROOT))
        if place.startswith((*COMMANDS, *WHOLE_COMMANDS)) or re.fullmatch(
            r"projects/\w+/\w+\.py", place
        ):
            continue
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                switch = re.search(r"(?<![\w-])--[a-z][\w-]*", node.value)
                if switch and re.fullmatch(r"--\S+", node.value) is None:
                    found.append(named(path, node.lineno, switch[0]))
    assert_none(found)


def lines_of(function):
    """Returns a function's number of lines without its docstring."""
    docstring = ast.get_docstring(function)
    return function.end_lineno - function.lineno + 1 - len((docstring or "").splitlines())


def test_folders_files_and_functions_are_small():
    found = []
    for folder in {path.parent for path in SOURCES}:
        count = sum(path.name != "__init__.py" for path in folder.glob("*.py"))
        if count > MAX_FILES:
            found.append(f"{folder.relative_to(ROOT)}: {count} files")
    for path in (*SOURCES, *TESTS):
        lines = len(path.read_text().splitlines())
        if lines > MAX_FILE_LINES and str(path.relative_to(ROOT)) not in FAMILIES:
            found.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(TREES[path]):
            length = lines_of(node) if isinstance(node, FUNCTIONS) else 0
            if length > MAX_FUNCTION_LINES:
                found.append(named(path, node.lineno, f"{node.name}: {length} lines"))
    assert_none(found)


def called(node):
    """Returns the last part of the names of the functions that a node calls."""
    calls = [n.func for n in ast.walk(node) if isinstance(n, ast.Call)]
    return {getattr(f, "attr", getattr(f, "id", "")) for f in calls}


def unread_comparisons(tree):
    names = {"allclose", "isclose", "equal", "array_equal", "array_equiv"}
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and getattr(node.value.func, "attr", "") in names
    ]


def test_every_comparison_is_read():
    assert_none(named(path, line, "") for path in TESTS for line in unread_comparisons(TREES[path]))


def is_assertion(node):
    raised = getattr(node, "exc", None) if isinstance(node, ast.Raise) else None
    return isinstance(node, ast.Assert) or (raised and "AssertionError" in ast.unparse(raised))


def functions_that_assert():
    """Returns the names of the functions of the tests that fail a test, directly or by another."""
    functions = [
        node for path in TESTS for node in ast.walk(TREES[path]) if isinstance(node, FUNCTIONS)
    ]
    asserting = {"raises", "warns", "fail", "gradcheck", "gradgradcheck", "opcheck"}
    calls = {}
    for node in functions:
        names = called(node)
        if any(map(is_assertion, ast.walk(node))) or any("assert_" in n for n in names):
            asserting.add(node.name)
        calls.setdefault(node.name, set()).update(names)
    while new := {name for name, names in calls.items() if names & asserting} - asserting:
        asserting |= new
    return asserting


def test_every_test_asserts():
    asserting = functions_that_assert()
    assert_none(
        named(path, node.lineno, node.name)
        for path in TESTS
        for node in ast.walk(TREES[path])
        if isinstance(node, FUNCTIONS)
        and node.name.startswith("test_")
        and node.name not in asserting
    )


@pytest.mark.parametrize(
    ("code", "expected"),
    [("torch.allclose(a, b)", [1]), ("assert torch.allclose(a, b)", []), ("np.equal(a, b)", [1])],
)
def test_the_search_for_unread_comparisons(code, expected):
    assert unread_comparisons(ast.parse(code)) == expected


def test_the_search_for_sections():
    text = "Args:\n    a: One\n        line more.\n    *b: Two.\n\nRaises:\n    XError: if c."
    assert section(text, "Args") == ["a: One line more.", "*b: Two."]
    assert section(text, "Raises") == ["XError: if c."]
    assert section(text, "Returns") == []
