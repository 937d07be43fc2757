"""What a run is, beside its weights: kept in its checkpoints, compared when it goes on."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.utils import comm

from wbcnets.errors import ConfigError

# What may differ when a run goes on: it changes nothing in the weights that come out of a step
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


@dataclass
class ResumeGuard:
    """Seed, settings and data of a run, a checkpointable of Detectron2's kind.

    Args:
        seed: From which all that is random in the run follows.
        config: All settings, nested.
        images: A hash of the training sets.
        processes: How many share the work.
        bad_steps: Steps that were left out because their numbers were not finite.
        consecutive_bad_steps: The last of these.
        allowed: Keys that may differ from those of the checkpoint, beside `CHANGEABLE`.
    """

    seed: int
    config: dict[str, Any]
    images: str
    processes: int
    bad_steps: int = 0
    consecutive_bad_steps: int = 0
    allowed: tuple[str, ...] = ()

    @classmethod
    def of(cls, cfg: CfgNode, allowed: Sequence[str] = ()) -> "ResumeGuard":
        """The record of a run that begins, with registered training sets."""
        return cls(
            comm.shared_random_seed() if cfg.SEED < 0 else cfg.SEED,
            yaml.safe_load(cfg.dump()),
            hash_records(cfg.DATASETS.TRAIN),
            comm.get_world_size(),
            allowed=tuple(allowed),
        )

    def state_dict(self) -> dict[str, Any]:
        """What goes into a checkpoint."""
        state = dict(vars(self))
        state["config"] = json.dumps(state.pop("config"))
        del state["allowed"]
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes seed and counters from a checkpoint.

        Raises:
            ConfigError: The run would not be the same one; the message lists what differs.
        """
        differences = list(self._differences(state))
        if differences:
            raise ConfigError(
                "--resume: this is not the run that the checkpoint is of:\n  "
                + "\n  ".join(differences)
                + "\nResume with its own settings, allow a change by name with "
                "--allow-config-change KEY, or start a new run with MODEL.WEIGHTS"
            )
        self.seed = int(state["seed"])
        self.bad_steps, self.consecutive_bad_steps = (
            state["bad_steps"],
            state["consecutive_bad_steps"],
        )

    def _differences(self, state: Mapping[str, Any]) -> Iterator[str]:
        old, new = dict(_flat(json.loads(state["config"]))), dict(_flat(self.config))
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key) and not self._may_differ(key):
                yield f"{key}: {old.get(key)!r} then, {new.get(key)!r} now"
        for key, name in (("images", "DATASETS.TRAIN"), ("processes", "processes")):
            if state[key] != getattr(self, key) and not self._may_differ(name):
                what = "its images or boxes" if key == "images" else f"{state[key]} then"
                yield f"{name}: {what}, other ones now ({getattr(self, key)})"

    def _may_differ(self, key: str) -> bool:
        # A schedule of fixed steps is the same up to the iteration at which the run was to end
        steps = "Cosine" not in self.config["SOLVER"]["LR_SCHEDULER_NAME"]
        free = (*CHANGEABLE, *self.allowed, *(["SOLVER.MAX_ITER"] if steps else []))
        return any(key == name or key.startswith(f"{name}.") for name in free)


def hash_records(datasets: Sequence[str]) -> str:
    """A hash of the images and boxes of registered datasets, wherever their folder lies."""
    digest = hashlib.sha256()
    for name in datasets:
        for record in DatasetCatalog.get(name):
            row = {**record, "file_name": Path(record["file_name"]).name}
            digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
