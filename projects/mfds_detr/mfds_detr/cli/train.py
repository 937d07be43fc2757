"""Trains MFDS-DETR, a detector of leukocytes in blood smears; resumes and evaluates it.

Any key of the config may follow as KEY VALUE.

Examples:
  wbcnets train smears --config mfds_detr_tiny_bccd --output output/first SOLVER.MAX_ITER 1000
  wbcnets train smears --config mfds_detr_tiny_bccd --output output/first --resume
  wbcnets train smears --config mfds_detr_r50_base --output output/mine \\
      --dataset mine_train=train.json:images --dataset mine_test=test.json:images \\
      DATASETS.TRAIN "('mine_train',)" DATASETS.TEST "('mine_test',)"

In a clone, python projects/mfds_detr/train_net.py takes the same options.
"""

import argparse
import logging
import multiprocessing
import sys
from contextlib import nullcontext
from datetime import timedelta
from itertools import chain

from detectron2.config import CfgNode
from detectron2.engine import launch
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException

from mfds_detr.config import read_config
from mfds_detr.data.datasets import parse_dataset
from mfds_detr.engine import run as engine
from mfds_detr.engine.run import RunOptions
from wbcnets.cli.main import INTERRUPTED, describe, exit_code
from wbcnets.cli.options import add_option, at_least
from wbcnets.engine.distributed import DEFAULT_TIMEOUT, explain_lost_process
from wbcnets.errors import ConfigError, ProcessError, WbcnetsError

logger = logging.getLogger("mfds_detr")
BESIDE = " (default: the one in the weights, or NAME.yaml or config.yaml beside them)"

# The options that all trainings share, the config keys they set, and their meanings
_KEYS = {
    "weights": ("MODEL.WEIGHTS", "weights to start from"),
    "output": ("OUTPUT_DIR", "the folder to write"),
    "device": ("MODEL.DEVICE", "auto (a GPU if there is one), cpu, cuda or cuda:1"),
    "batch-size": ("SOLVER.IMS_PER_BATCH", "images per step, in all processes together"),
    "workers": ("DATALOADER.NUM_WORKERS", "processes that load images"),
    "seed": ("SEED", "equal seeds give equal results"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds Detectron2's usual options, and those that all trainings share."""
    add_config_file(parser)
    for name, (key, meaning) in _KEYS.items():
        add_option(parser, name, default=None, required=False, help=f"{meaning} ({key})")
    add = parser.add_argument
    source = "NAME=ANNOTATIONS.json:IMAGE_FOLDER"
    text = "a COCO-format dataset, and its name in DATASETS; may be repeated"
    add("--dataset", action="append", default=[], metavar=source, help=text)
    add("--resume", action="store_true", help="continue from the newest checkpoint in OUTPUT_DIR")
    text = "with --resume, accept that this config key differs from the checkpoint's"
    add("--allow-config-change", action="append", default=[], metavar="KEY", help=text)
    add("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS on DATASETS.TEST only")
    add("--num-gpus", type=at_least(0, 64), default=1, help="processes on this machine")
    add("--num-machines", type=at_least(1, 1024), default=1, help="machines in all")
    add("--machine-rank", type=at_least(0, 1023), default=0, help="this machine, from 0")
    add("--dist-url", default="auto", help="such as tcp://FIRST_MACHINE:29500")
    text = "how long a process waits for the others"
    add("--timeout", type=float, default=DEFAULT_TIMEOUT, metavar="SECONDS", help=text)
    add_overrides(parser)


def add_config_file(parser: argparse.ArgumentParser, note: str = "") -> None:
    """Adds ``--config``, which Detectron2 calls ``--config-file``."""
    text = f"a YAML file, or the name of a config that comes with the project{note}"
    parser.add_argument("--config-file", "--config", default="", metavar="NAME_OR_FILE", help=text)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Adds the keys and values that override a config."""
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to override")


def run(args: argparse.Namespace) -> int:
    """Trains or evaluates in one or several processes.

    Raises:
        ConfigError: if an option or the config is wrong.
        ProcessError: if one of several processes was killed.
        KeyboardInterrupt: if the run was asked to stop.
    """
    cfg = read_run_config(args)
    datasets = tuple(parse_dataset(text) for text in args.dataset)
    options = RunOptions(datasets, args.eval_only, args.resume, tuple(args.allow_config_change))
    if args.num_machines > 1 and args.dist_url == "auto":
        raise ConfigError("several machines need the address of the first one", setting="dist_url")
    if args.machine_rank >= args.num_machines:
        raise ConfigError(
            f"machine {args.machine_rank} of {args.num_machines}: the ranks start from 0",
            setting="machine_rank",
        )
    with engine.claim_output(cfg, options) if args.machine_rank == 0 else nullcontext():
        return _launch(args, cfg, options)


def _launch(args: argparse.Namespace, cfg: CfgNode, options: RunOptions) -> int:
    """Starts the processes, and waits for them; returns the exit code."""
    try:
        launch(
            _run_process,
            args.num_gpus,
            args.num_machines,
            args.machine_rank,
            args.dist_url,
            (cfg, options),
            timedelta(seconds=args.timeout),
        )
    except KeyboardInterrupt:
        _end_processes()
        print("stopped; --resume continues the training", file=sys.stderr)
        raise
    except ProcessExitedException as error:
        if error.exit_code == INTERRUPTED:
            raise KeyboardInterrupt from error
        if error.exit_code < 0:  # a signal ended it before it could say anything
            raise ProcessError(f"{error}; use --resume to continue the training") from error
        return error.exit_code
    return 0


def _end_processes() -> None:
    """Asks the processes of the run to stop, and waits until they have saved it."""
    processes = [child for child in multiprocessing.active_children() if not child.daemon]
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()


def read_run_config(args: argparse.Namespace) -> CfgNode:
    """Returns the config of the command line: the file, the options, then the overrides."""
    options = {key: getattr(args, name.replace("-", "_")) for name, (key, _) in _KEYS.items()}
    # A config's values are Python literals: a text in quotes stays as it is
    given = {
        key: str(value) if isinstance(value, int) else repr(str(value))
        for key, value in options.items()
        if value is not None
    }
    return read_config(args.config_file, [*chain(*given.items()), *args.opts])


def _run_process(cfg: CfgNode, options: RunOptions) -> None:
    """Runs one process; an expected error ends it with one message, in the log and on the terminal.

    Raises:
        SystemExit: if there was an error, or the run was asked to stop; it has the exit code.
    """
    try:
        with explain_lost_process(comm.get_rank(), comm.get_world_size()):
            engine.run(cfg, options)
    except KeyboardInterrupt:
        if comm.get_world_size() == 1:
            raise
        raise SystemExit(INTERRUPTED) from None
    except (WbcnetsError, FloatingPointError) as error:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        text = describe(error, parser)
        logger.error(text)  # the main process prints its log
        if not comm.is_main_process():
            print(f"error: {text}", file=sys.stderr)
        raise SystemExit(exit_code(error)) from None
