"""Installs ``mfds_detr`` beside ``wbcnets``; everything else is in pyproject.toml.

The project keeps its configs and weights beside its package, as Detectron2's projects do. In the
wheel they are the folders ``configs`` and ``weights`` inside the package.
"""

from setuptools import find_packages, setup

PROJECT = "projects/mfds_detr"
FOLDERS = ("configs", "weights")

setup(
    packages=[
        "wbcnets_command",
        *find_packages(include=["wbcnets*"]),
        *find_packages(PROJECT, include=["mfds_detr*"]),
        *(f"mfds_detr.{folder}" for folder in FOLDERS),
    ],
    package_dir={
        "wbcnets_command": "tools/wbcnets_command",
        "mfds_detr": f"{PROJECT}/mfds_detr",
        **{f"mfds_detr.{folder}": f"{PROJECT}/{folder}" for folder in FOLDERS},
    },
)
