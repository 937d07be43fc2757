"""Trains the rows of a paper's ablation tables, and prints the metrics beside the paper's.

Each run has a folder of its own. Finished runs are kept, and interrupted ones are resumed.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wbcnets.errors import ConfigError
from wbcnets.io.atomic_files import write_text
from wbcnets.train.ablation_tables import STUDIES, AblationStudy, AblationTable
from wbcnets.train.config import TrainConfig
from wbcnets.train.config_file import load_config, text_override
from wbcnets.train.run import resume_training, train_classifier
from wbcnets.train.run_folder import CONFIG_NAME, find_config_changes

logger = logging.getLogger(__name__)

Metrics = dict[str, float | None]

# A preset's classes and splits are those of its own dataset
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
    """Trains what is not finished yet, and returns the tables as Markdown.

    Args:
        paper: One of ``STUDIES``.
        data: A data source, see ``wbcnets.train.config.DataConfig``.
        output: Folder of the runs; gets ``results.json`` and ``results.md``.
        overrides: ``KEY=VALUE`` for all runs, such as ``training.epochs=10``.
        tables: Numbers of the tables; by default those about ``data``, or all if there are none.
        positive: The positive one of two classes; by default the last.

    Raises:
        WbcnetsError: if a name is unknown, if an override changes what the rows compare, or if a
            run fails.
    """
    if paper not in STUDIES:
        raise ConfigError(
            f"paper {paper!r} is unknown; use one of {', '.join(STUDIES)}", setting="paper"
        )
    study = STUDIES[paper]
    chosen = choose_tables(study, data, tables)
    names = list(dict.fromkeys(run for table in chosen for run in table.rows.values()))
    configs = _configs(study, names, data, output, overrides)
    results: dict[str, Metrics] = {}
    text = ""
    for number, (name, config) in enumerate(configs.items(), start=1):
        logger.info("run %d of %d: %s", number, len(configs), name)
        results[name] = _select_metrics(_train_once(output / name, config), study, positive)
        text = "\n\n".join(format_table(study, table, results) for table in chosen)
        if os.environ.get("RANK", "0") == "0":
            write_text(output / "results.json", json.dumps(results, indent=1))
            write_text(output / "results.md", text + "\n")
    return text


def choose_tables(
    study: AblationStudy, data: str, numbers: Sequence[str] = ()
) -> list[AblationTable]:
    """Returns the tables by number, by default those about a dataset, or all if there are none.

    Raises:
        ConfigError: if there is no such table.
    """
    unknown = [number for number in numbers if number not in study.tables]
    if unknown:
        raise ConfigError(
            f"table {unknown[0]!r}: use some of {', '.join(study.tables)}", setting="tables"
        )
    if numbers:
        return [study.tables[number] for number in numbers]
    own = [table for table in study.tables.values() if table.dataset == data]
    # Tables with the same rows would show one result several times
    distinct = {tuple(table.rows.values()): table for table in reversed(study.tables.values())}
    return own or list(reversed(distinct.values()))


def format_table(study: AblationStudy, table: AblationTable, results: Mapping[str, Metrics]) -> str:
    """Returns a table in Markdown: our percentages, and the paper's in brackets; "-" if unknown."""
    names = [name.rpartition(":")[2].removesuffix("_macro") for name in study.metrics]
    lines = [
        f"**{table.title}** (in brackets the paper's results on {table.dataset})",
        "",
        f"| | {' | '.join(names)} |",
        f"| --- |{' ---: |' * len(names)}",
    ]
    for (label, run), papers in zip(table.rows.items(), table.results, strict=True):
        own = results.get(run, {})
        cells = [
            f"{_percent(own.get(name), 100)} ({_percent(paper)})"
            for name, paper in zip(study.metrics, papers, strict=True)
        ]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    if table.note:
        lines += ["", f"Note: {table.note}."]
    return "\n".join(lines)


def _configs(
    study: AblationStudy, names: Sequence[str], data: str, output: Path, overrides: Sequence[str]
) -> dict[str, TrainConfig]:
    """Returns the settings of each run, all checked before the first one starts."""
    varied = {entry.partition("=")[0] for name in names for entry in study.runs[name]}
    clashes = [entry for entry in overrides if entry.partition("=")[0].strip() in varied]
    if clashes:
        raise ConfigError(
            f"{', '.join(clashes)}: the rows of the table compare this setting, so it cannot be set"
        )
    elsewhere = load_config(study.preset).data.source != data
    shared = [
        *study.base,
        *(_OTHER_DATA if elsewhere else ()),
        text_override("data.source", data),
        *overrides,
    ]
    return {
        name: load_config(
            study.preset, [*shared, *study.runs[name], text_override("output", output / name)]
        )
        for name in names
    }


def _train_once(folder: Path, config: TrainConfig) -> dict[str, Any]:
    """Trains a run unless it is finished; returns the metrics of its best epoch."""
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
            write_text(marker, "")
    best: dict[str, Any] = json.loads((folder / "best.json").read_text(encoding="utf-8"))
    return best


def _select_metrics(best: Mapping[str, Any], study: AblationStudy, positive: str) -> Metrics:
    """Returns the columns of a study, for the positive class if there are two classes."""
    selected: Metrics = {}
    classes = list(best["per_class"])
    if positive and positive not in classes:
        raise ConfigError(
            f"positive class {positive!r}: use one of {', '.join(classes)}", setting="positive"
        )
    for name in study.metrics:
        _, of_positive, metric = name.rpartition(":")
        if of_positive and len(classes) == 2:
            selected[name] = best["per_class"][positive or classes[-1]][metric]
        else:
            selected[name] = best["overall"][f"{metric}_macro" if of_positive else metric]
    return selected


def _percent(value: float | None, factor: float = 1.0) -> str:
    return "-" if value is None else f"{factor * value:.2f}"
