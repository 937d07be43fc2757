import argparse
import runpy
import sys

import pytest

from wbcnets.cli.main import main
from wbcnets.cli.prepare import _find_card, add_arguments
from wbcnets.data.cards import CARDS

SMEARS = ("bccd", "txl_pbc", "lisc", "wbcdd")
CELLS = ("pbc", "aml_lmu", "bmcd_fgcd", "all_idb2", "cnmc", "bloodmnist", "cells")
NAMES = (*SMEARS, *CELLS, "lisc_cells", "raabin_wbc")
CELL_OPTIONS = ("--protocol", "--seed", "--leaks", "--allow-rare")


def show_help(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        main(["prepare", *words, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_help_lists_every_dataset_with_one_line(capsys):
    text = show_help(capsys)
    assert all(f"    {name}" in text for name in NAMES)
    assert CARDS["pbc"].title in text
    assert "wbcnets prepare bccd --source BCCD_Dataset-master.zip" in text


@pytest.mark.parametrize("name", NAMES)
def test_help_teaches_and_shows_only_the_options_of_the_dataset(capsys, name):
    text = show_help(capsys, name)
    for word in ("--source", "--output", "--allow-other-counts"):
        assert word in text
    assert all((option in text) == (name not in SMEARS) for option in CELL_OPTIONS)
    assert ("--without-bccd" in text) == (name == "txl_pbc")
    assert ("--group-pattern" in text) == (name == "cells")
    if name in CARDS:
        assert CARDS[name].describe() in text


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_the_command_of_a_card_is_one_that_exists(card):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    command, name, *words = card.prepare.split()
    assert (command, name) == ("wbcnets", "prepare")
    args = parser.parse_args(words)
    assert _find_card(args) == card


def test_two_choices_of_classes_are_an_error(capsys):
    words = ["txl_pbc", "--source", "x", "--classes", "subtype", "--without-bccd"]
    with pytest.raises(SystemExit) as caught:
        main(["prepare", *words])
    assert caught.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize("name", [*SMEARS, *CELLS])
def test_the_scripts_run_the_command(repository, monkeypatch, capsys, name):
    monkeypatch.setattr(sys, "argv", ["script", "--source", "no/such/source", "--output", "x"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(repository / "datasets" / f"prepare_{name}.py"), run_name="__main__")
    assert caught.value.code == 1
    assert "error: no/such/source: " in capsys.readouterr().err
