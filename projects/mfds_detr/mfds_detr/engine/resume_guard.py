"""The settings and data of a run, kept in its checkpoints and compared when it resumes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.utils import comm

from wbcnets.engine.resume import find_changes, flatten_settings
from wbcnets.errors import ConfigError

# A resumed run may change these: they change nothing in the weights that each step produces
CHANGEABLE = (
    "DATALOADER.NUM_WORKERS",
    "DATALOADER.TIMEOUT",
    "DATASETS.ALLOW_LEAKS",
    "DATASETS.TEST",
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",
    "MODEL.WEIGHTS_PARTIAL",
    "OUTPUT_DIR",
    "SOLVER.CHECKPOINTS_KEPT",
    "SOLVER.CHECKPOINT_PERIOD",
    "SOLVER.MAX_BAD_STEPS",
    "TEST",
    "VIS_PERIOD",
)


class ResumeGuard:
    """Seed, settings and data of a run, as a checkpointable of Detectron2.

    Args:
        cfg: The config; its training sets are registered.
        allowed_changes: Keys that may differ from the checkpoint, besides ``CHANGEABLE``.
    """

    def __init__(self, cfg: CfgNode, allowed_changes: Sequence[str] = ()) -> None:
        self.seed = comm.shared_random_seed() if cfg.SEED < 0 else cfg.SEED
        self.settings = flatten_settings(yaml.safe_load(cfg.dump()))
        self.settings["DATASETS.TRAIN.content"] = hash_records(cfg.DATASETS.TRAIN)
        self.settings["processes"] = comm.get_world_size()
        self._changeable = (*CHANGEABLE, *allowed_changes)
        if "Cosine" not in cfg.SOLVER.LR_SCHEDULER_NAME:
            # The other schedules do not depend on the last iteration
            self._changeable += ("SOLVER.MAX_ITER",)

    def state_dict(self) -> dict[str, Any]:
        """Returns the entry of a checkpoint."""
        return {"seed": self.seed, "settings": json.dumps(self.settings)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the seed from a checkpoint.

        Raises:
            ConfigError: if a setting would change the result of the run; lists all of them.
        """
        changes = list(find_changes(json.loads(state["settings"]), self.settings, self._changeable))
        if changes:
            raise ConfigError(
                "the run would not continue as it began:\n  "
                + "\n  ".join(changes)
                + "\nResume with its own settings, allow a change by its key, or start a new run "
                "from its weights with MODEL.WEIGHTS",
                setting="allow_config_change",
            )
        self.seed = int(state["seed"])


def hash_records(datasets: Sequence[str]) -> str:
    """Returns a hash of the images and boxes of registered datasets, in any folder."""
    digest = hashlib.sha256()
    for name in datasets:
        for record in DatasetCatalog.get(name):
            row = {**record, "file_name": Path(record["file_name"]).name}
            digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()
