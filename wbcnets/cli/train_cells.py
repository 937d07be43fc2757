"""Trains a classifier of cell images from a preset, a YAML file or settings KEY=VALUE.

Examples:
  wbcnets train cells --data my_cells --output runs/mine model.name=resnet50 training.epochs=20
      a model of timm or of wbcnets on a folder with one folder per class
  wbcnets train cells --config resnet18_pbc_cpu --output runs/resnet18
      a preset, on the dataset that it names
  wbcnets train cells --from resnext_cc_26.pbc --data my_laboratory --output runs/mine
      adapt a shipped classifier to a laboratory, from a few labeled images per class
  wbcnets train cells --output runs/resnet18 --resume
      continue a training that was stopped or killed; it ends with the same weights
  torchrun --nproc-per-node 4 -m wbcnets train cells --config sckansformer_pbc --output runs/sck

The output folder holds the weights, the metrics and a README.txt that explains its files.
"""

import argparse
import sys

from wbcnets.cli.options import add_option
from wbcnets.errors import ConfigError
from wbcnets.train.config_file import dump_config, load_config, preset_names, text_override
from wbcnets.train.run import resume_training, train_classifier
from wbcnets.train.start import start_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``wbcnets train cells``."""
    add_option(parser, "config", help=f"a YAML file, or one of {', '.join(preset_names())}")
    add_option(parser, "data")
    parser.add_argument(
        "--from",
        dest="start",
        metavar="NAME_OR_FILE",
        help="start from a shipped classifier or a checkpoint; without --config by the settings of "
        "adapt_cpu, for few images",
    )
    add_option(parser, "output", help="the folder for this training; it must not hold another")
    add_option(parser, "resume")
    parser.add_argument(
        "--print-config", action="store_true", help="print every setting with its value, and stop"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings that replace those of --config; --print-config lists all keys",
    )


def run(args: argparse.Namespace) -> int:
    """Trains, or prints the settings.

    Raises:
        WbcnetsError: if the settings, the data or the weights cannot be used.
        FloatingPointError: if too many steps in a row are not finite.
        KeyboardInterrupt: if the training was asked to stop.
    """
    overrides = [*args.overrides, *([text_override("data.source", args.data)] if args.data else [])]
    if args.resume and (args.config or args.start or not args.output):
        raise ConfigError("--resume needs --output FOLDER, and reads the settings from there")
    try:
        if args.resume:
            resume_training(args.output, overrides)
            return 0
        overrides += [text_override("output", args.output)] if args.output else []
        start = start_settings(args.start) if args.start else []
        config = load_config(args.config or ("adapt_cpu" if start else ""), [*start, *overrides])
        if args.print_config:
            print(dump_config(config), end="")
        else:
            train_classifier(config)
    except KeyboardInterrupt:
        print("stopped; --resume continues the training", file=sys.stderr)
        raise
    return 0
