"""Runs a paper's ablation tables on a data set, and prints them beside the paper's figures.

Each run has a folder of its own. What is finished is kept, what was stopped goes on.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wbcnets.errors import ConfigError
from wbcnets.io.atomic_files import write_atomically
from wbcnets.train.ablation_tables import STUDIES, AblationStudy, AblationTable
from wbcnets.train.config import TrainConfig
from wbcnets.train.config_file import load_config
from wbcnets.train.run import resume_training, train_classifier
from wbcnets.train.run_folder import CONFIG_NAME, find_config_changes

logger = logging.getLogger(__name__)

Figures = dict[str, float | None]

# What a preset says about the classes and splits of its own set holds for no other
_OTHER_DATA = (
    "data.repeats={}",
    "data.train_split=train",
    "data.val_split=val",
    "data.split_protocol=8:2",
)


def run_ablations(
    paper: str,
    data: str,
    output: Path,
    overrides: Sequence[str] = (),
    tables: Sequence[str] = (),
    positive: str = "",
) -> str:
    """Trains what is not finished yet, and gives the tables as Markdown.

    Args:
        paper: One of `STUDIES`.
        data: A data source, see `wbcnets.train.config.DataConfig`.
        output: Folder of the runs; gets `results.json` and `results.md`.
        overrides: ``KEY=VALUE`` for all runs, such as ``training.epochs=10``.
        tables: Numbers of the tables; by default those about `data`, else all.
        positive: For two classes, the positive one; by default the last.

    Raises:
        WbcnetsError: A name is unknown, an override changes what the rows compare, or a run fails.
    """
    if paper not in STUDIES:
        raise ConfigError(f"paper {paper!r} is unknown; use one of {', '.join(STUDIES)}")
    study = STUDIES[paper]
    chosen = choose_tables(study, data, tables)
    names = list(dict.fromkeys(run for table in chosen for run in table.rows.values()))
    configs = _configs(study, names, data, output, overrides)
    results: dict[str, Figures] = {}
    text = ""
    for place, (name, config) in enumerate(configs.items()):
        logger.info("run %d of %d: %s", place + 1, len(configs), name)
        results[name] = _figures(_train_once(output / name, config), study, positive)
        text = "\n\n".join(format_table(study, table, results) for table in chosen)
        if os.environ.get("RANK", "0") == "0":
            _write(output / "results.json", json.dumps(results, indent=1))
            _write(output / "results.md", text + "\n")
    return text


def choose_tables(
    study: AblationStudy, data: str, numbers: Sequence[str] = ()
) -> list[AblationTable]:
    """The tables by their numbers; else those about the data set; else all.

    Raises:
        ConfigError: There is no such table.
    """
    unknown = [number for number in numbers if number not in study.tables]
    if unknown:
        raise ConfigError(f"table {unknown[0]!r}: use some of {', '.join(study.tables)}")
    if numbers:
        return [study.tables[number] for number in numbers]
    own = [table for table in study.tables.values() if table.dataset == data]
    # Tables with the same rows would show one result several times
    distinct = {tuple(table.rows.values()): table for table in reversed(study.tables.values())}
    return own or list(reversed(distinct.values()))


def format_table(study: AblationStudy, table: AblationTable, results: Mapping[str, Figures]) -> str:
    """A table in Markdown: our figure, and the paper's in brackets; "-" where there is none."""
    names = [name.rpartition(":")[2].removesuffix("_macro") for name in study.figures]
    lines = [
        f"**{table.title}** (in brackets the paper's figures on {table.dataset})",
        "",
        f"| | {' | '.join(names)} |",
        f"| --- |{' ---: |' * len(names)}",
    ]
    for (label, run), papers in zip(table.rows.items(), table.figures, strict=True):
        own = results.get(run, {})
        cells = [
            f"{_percent(own.get(name), 100)} ({_percent(paper)})"
            for name, paper in zip(study.figures, papers, strict=True)
        ]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    if table.note:
        lines += ["", f"Note: {table.note}."]
    return "\n".join(lines)


def _configs(
    study: AblationStudy, names: Sequence[str], data: str, output: Path, overrides: Sequence[str]
) -> dict[str, TrainConfig]:
    """Each run's settings, all checked before the first one starts."""
    varied = {entry.partition("=")[0] for name in names for entry in study.runs[name]}
    clashes = [entry for entry in overrides if entry.partition("=")[0].strip() in varied]
    if clashes:
        raise ConfigError(f"{', '.join(clashes)}: is what the rows compare, and cannot be the same")
    elsewhere = load_config(study.preset).data.source != data
    shared = [*study.base, *(_OTHER_DATA if elsewhere else ()), f"data.source={data}", *overrides]
    return {
        name: load_config(study.preset, [*shared, *study.runs[name], f"output={output / name}"])
        for name in names
    }


def _train_once(folder: Path, config: TrainConfig) -> dict[str, Any]:
    """The figures of a run's best epoch; trains where the run is not finished."""
    if (folder / CONFIG_NAME).is_file():
        changes = find_config_changes(load_config(folder / CONFIG_NAME), config)
        if changes:
            raise ConfigError(
                f"{folder}: holds a run with other settings ({'; '.join(changes)}); choose "
                "another output folder, or remove it",
                setting="output",
            )
    marker = folder / "finished"
    if not marker.is_file():
        if (folder / CONFIG_NAME).is_file():
            resume_training(folder)
        else:
            train_classifier(config)
        if os.environ.get("RANK", "0") == "0":
            _write(marker, "")
    figures: dict[str, Any] = json.loads((folder / "best.json").read_text(encoding="utf-8"))
    return figures


def _figures(best: Mapping[str, Any], study: AblationStudy, positive: str) -> Figures:
    figures: Figures = {}
    classes = list(best["per_class"])
    if positive and positive not in classes:
        raise ConfigError(f"positive class {positive!r}: use one of {', '.join(classes)}")
    for name in study.figures:
        _, of_positive, figure = name.rpartition(":")
        if of_positive and len(classes) == 2:
            figures[name] = best["per_class"][positive or classes[-1]][figure]
        else:
            figures[name] = best["overall"][f"{figure}_macro" if of_positive else figure]
    return figures


def _percent(value: float | None, factor: float = 1.0) -> str:
    return "-" if value is None else f"{factor * value:.2f}"


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode("utf-8")))
