"""A training run, from its settings to a folder with weights and metrics."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from wbcnets.engine.distributed import init_distributed
from wbcnets.engine.seeding import seed_everything
from wbcnets.io.outputs import OutputLock, claim_folder
from wbcnets.train.config import TrainConfig
from wbcnets.train.data import create_data, find_splits
from wbcnets.train.logging import start_logging
from wbcnets.train.model import create_classifier, describe_data
from wbcnets.train.run_folder import COMMAND, RunFolder, check_new, read_run, restore_last
from wbcnets.train.state import Progress, create_state
from wbcnets.train.trainer import Trainer


def train_classifier(config: TrainConfig) -> Progress:
    """Trains a classifier in a new folder.

    Args:
        config: All settings; ``output`` and ``data.source`` are required.

    Returns:
        The position where the run ended, and a row of metrics per epoch.

    Raises:
        WbcnetsError: if settings, data or weights are not usable.
        FloatingPointError: if too many steps in a row were not finite.
        KeyboardInterrupt: if the run was asked to stop; it can be resumed.
    """
    return _train(config)


def resume_training(output: str | Path, overrides: Sequence[str] = ()) -> Progress:
    """Continues the run in a folder as if it had not stopped.

    Args:
        output: The folder.
        overrides: ``KEY=VALUE`` for keys in ``wbcnets.train.run_folder.CHANGEABLE``.

    Returns:
        The position where the run ended, and a row of metrics per epoch.

    Raises:
        WbcnetsError: if there is no run, if an override would change its result, or if data or
            checkpoint are not usable.
        FloatingPointError: if too many steps in a row were not finite.
        KeyboardInterrupt: if the run was asked to stop; it can be resumed.
    """
    return _train(read_run(Path(output), overrides), Path(output))


def _train(config: TrainConfig, resumed: Path | None = None) -> Progress:
    timeout = config.training.process_timeout
    with ExitStack() as stack, init_distributed(config.device, timeout) as context:
        # Here, because a process that is refused before it meets the others leaves them waiting
        path = resumed or check_new(config)
        context.wait()  # all processes have looked at the folder before the main one writes into it
        if context.is_main:
            lock = OutputLock(path, COMMAND) if resumed else claim_folder(path, COMMAND)
            stack.enter_context(lock)
        start_logging(path if context.is_main else None)
        splits = find_splits(config.data)
        seed_everything(config.training.seed)
        names = splits.train.class_names
        model = create_classifier(config, len(names), names)
        data_config = describe_data(config, model)
        data = create_data(config, splits, data_config, context)
        steps = data.sampler.steps_per_epoch
        state = create_state(config, model, splits.train.counts(), steps, context)
        if resumed:
            restore_last(path, state, splits.fingerprint())
        folder = RunFolder(path, config, splits, data_config) if context.is_main else None
        return Trainer(config, context, state, data, folder).train()
