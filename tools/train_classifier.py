"""Trains a classifier of cell images, from a preset or a YAML file and settings KEY=VALUE.

  python tools/train_classifier.py --config resnet18_pbc_cpu --output runs/resnet18
  python tools/train_classifier.py --data my_cells --output runs/mine model.name=resnet50
  python tools/train_classifier.py --resume runs/resnet18
  torchrun --nproc-per-node 4 tools/train_classifier.py --config sckansformer_pbc --output runs/sck

--data takes a prepared set's name, a folder of class folders, a manifest or a table. The folder of
a run holds weights, figures and a README.txt. A run that was stopped or killed goes on with
--resume, and ends with the same weights.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from wbcnets.errors import ConfigError, WbcnetsError
from wbcnets.train.config_file import dump_config, known_keys, load_config, preset_names
from wbcnets.train.run import resume_training, train_classifier


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config",
        default="",
        metavar="PRESET_OR_FILE",
        help=f"a YAML file, or one of {', '.join(preset_names())}",
    )
    parser.add_argument("--data", metavar="NAME_OR_PATH", help="same as data.source=...")
    parser.add_argument("--output", metavar="FOLDER", help="same as output=...")
    parser.add_argument("--resume", type=Path, metavar="FOLDER", help="go on with this run")
    parser.add_argument(
        "--print-config", action="store_true", help="print all settings and do nothing"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help=f"settings that go before the file's: {', '.join(known_keys())}",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Does the work of a parsed command line."""
    overrides = list(args.overrides)
    overrides += [f"data.source={args.data}"] if args.data else []
    if args.resume is not None:
        if args.config or args.output:
            raise ConfigError("--resume takes its settings and its folder from the run itself")
        resume_training(args.resume, overrides)
        return
    overrides += [f"output={args.output}"] if args.output else []
    config = load_config(args.config, overrides)
    if args.print_config:
        print(dump_config(config), end="")
        return
    train_classifier(config)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0 when done, 1 on an error, 130 when interrupted."""
    args = build_parser().parse_intermixed_args(arguments)
    try:
        run(args)
    except (WbcnetsError, FloatingPointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; go on with --resume FOLDER", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
