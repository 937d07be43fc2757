"""Reads JSON strictly, and writes it so that a crash leaves the old or the new file."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from wbcnets.errors import DataError
from wbcnets.io.atomic_files import write_text
from wbcnets.io.image_files import read_regular_file

MAX_BYTES = 1 << 30


def read_json(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Reads a JSON file whose top level is an object.

    A byte-order mark is accepted. Duplicate keys are refused; Python's own reader keeps the last.
    NaN and infinity are passed on, so that later checks can name the item that holds them.

    Args:
        path: The file.
        max_bytes: Larger files are refused.

    Returns:
        The parsed object.

    Raises:
        DataError: if the file is missing, too large, not UTF-8, not JSON (with line and column),
            nested too deeply, has a duplicate key, or is not an object at its top level.
    """
    name = os.fspath(path)
    content = read_regular_file(path, max_bytes, "the JSON file")
    try:
        text = content.decode("utf-8-sig")
        del content  # the parsed values of a large file need its memory
        value = json.loads(text, object_pairs_hook=_refuse_duplicate_keys)
    except DataError as error:  # a duplicate key
        raise DataError(f"{name}: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: byte {error.start} is not UTF-8 - save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{name}:{error.lineno}:{error.colno}: not valid JSON ({error.msg}) - "
            "the file is damaged or was cut short; export it again"
        ) from error
    except RecursionError as error:
        raise DataError(f"{name}: nested too deeply - this is not an annotation file") from error
    except ValueError as error:  # Python's limit of digits
        raise DataError(f"{name}{_describe_long_integer(text)} - export the file again") from error
    if not isinstance(value, dict):
        raise DataError(
            f"{name}: the top level is a {type(value).__name__}, expected an object {{}}"
        )
    return value


def write_json(value: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes an object as JSON, whole or not at all.

    Args:
        value: The object; NaN and infinity are refused.
        path: The file; its folder is created if missing.

    Raises:
        ValueError: if the object holds NaN or infinity.
        CheckpointError: if the file cannot be written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    write_text(target, text)


def _refuse_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise DataError(f'the key "{key}" is a duplicate - remove one of the two')
            seen.add(key)
    return value


def _describe_long_integer(text: str) -> str:
    """Returns line and column of the first integer that Python refuses, and its length."""
    found = re.search(rf"[0-9]{{{sys.get_int_max_str_digits() or 1},}}", text)
    if found is None:
        return ": holds an integer of thousands of digits"
    line = text.count("\n", 0, found.start()) + 1
    column = found.start() - text.rfind("\n", 0, found.start())
    return f":{line}:{column}: an integer of {len(found[0]):,} digits is no id and no size"
