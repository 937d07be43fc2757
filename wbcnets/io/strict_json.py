"""Reads JSON strictly, and writes it so that a crash leaves the old or the new file."""

import json
import os
from pathlib import Path
from typing import Any

from wbcnets.errors import DataError
from wbcnets.io.atomic_files import write_text

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
    if not Path(path).is_file():
        raise DataError(f"{name}: the JSON file does not exist - correct the path")
    size = Path(path).stat().st_size
    if size > max_bytes:
        raise DataError(
            f"{name}: {size:,} bytes exceed the limit of {max_bytes:,} - split the file"
        )
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
        value = json.loads(text, object_pairs_hook=_refuse_duplicate_keys)
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: byte {error.start} is not UTF-8 - save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{name}:{error.lineno}:{error.colno}: not valid JSON ({error.msg}) - "
            "the file is damaged or was cut short; export it again"
        ) from error
    except RecursionError as error:
        raise DataError(f"{name}: nested too deeply - this is not an annotation file") from error
    # Raised by the duplicate-key hook, and for integers of thousands of digits
    except ValueError as error:
        raise DataError(f"{name}: {error}") from error
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
                raise ValueError(f'the key "{key}" is a duplicate - remove one of the two')
            seen.add(key)
    return value
