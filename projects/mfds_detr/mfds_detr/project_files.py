"""The configs and weights that come with the project, by name."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_SUFFIXES = {"configs": ".yaml", "weights": ".safetensors"}


def project_files(kind: str) -> dict[str, Path]:
    """Returns the files of ``kind`` by name, such as ``ablations/table6_fpn``.

    Args:
        kind: "configs" or "weights": a folder beside the package in a clone, and inside the package
            where it is installed.
    """
    installed = _PACKAGE / kind
    folder = installed if installed.is_dir() else _PACKAGE.parent / kind
    paths = sorted(folder.rglob(f"*{_SUFFIXES[kind]}"))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}
