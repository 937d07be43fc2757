"""Cell images as a PyTorch dataset whose items depend only on seed, epoch and index.

No item depends on the state of a worker: any number of workers gives the same items, and a resumed
run continues with the same ones.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wbcnets.data.cells.augmentation import CellAugmentation
from wbcnets.data.cells.manifest import CellManifest
from wbcnets.errors import ConfigError
from wbcnets.io.images import read_image
from wbcnets.io.parallel import free_memory, map_images


class PixelNormalization:
    """(H, W, 3) uint8 -> (3, H, W) float32, ``(x / 255 - mean) / std``.

    Args:
        mean: Per channel, in [0, 1].
        std: Per channel, in [0, 1].

    Raises:
        ConfigError: if these are not three finite numbers each, or a ``std`` is not above 0.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        finite = all(math.isfinite(number) for number in (*mean, *std))
        if len(mean) != 3 or len(std) != 3 or not finite or min(std) <= 0:
            raise ConfigError(
                f"mean {mean} and std {std} must be three finite numbers each, std above 0"
            )
        # One multiplication and one addition are faster than three operations
        self._scale = torch.tensor([1 / (255 * s) for s in std]).view(3, 1, 1)
        self._shift = torch.tensor([-m / s for m, s in zip(mean, std)]).view(3, 1, 1)

    def __call__(self, image: npt.NDArray[np.uint8]) -> Tensor:
        """Converts one image."""
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return pixels.to(torch.float32).mul_(self._scale).add_(self._shift)


class CellDataset(Dataset[tuple[Tensor, int]]):
    """The images of a manifest, augmented and normalized.

    Args:
        manifest: The images, usually those of one split.
        augmentation: Turns a decoded image into a square one.
        mean: Mean of the three channels, in [0, 1].
        std: Standard deviation of the three channels, in (0, 1].
        seed: Seed of the augmentation.
        cache: Whether all images are decoded and resized once and kept as one uint8 array, which
            forked workers share. The items are the same either way.

    Raises:
        ConfigError: if mean or std are not three numbers, or the cache does not fit into memory.
        DataError: if ``cache`` is set and images cannot be read; all are listed.
    """

    def __init__(
        self,
        manifest: CellManifest,
        augmentation: CellAugmentation,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int = 0,
        cache: bool = False,
    ) -> None:
        if seed < 0:
            raise ConfigError(f"seed {seed} must not be negative")
        self.manifest = manifest
        self.augmentation = augmentation
        self.seed = seed
        self._normalize = PixelNormalization(mean, std)
        # In shared memory, so that persistent workers see a new epoch
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._cache = self._read_all() if cache else None

    @property
    def epoch(self) -> int:
        """The epoch of the items."""
        return int(self._epoch)

    @property
    def labels(self) -> list[int]:
        """The label of each item."""
        return self.manifest.labels

    @property
    def cached_bytes(self) -> int:
        """The size of the cache; 0 without one."""
        return 0 if self._cache is None else self._cache.nbytes

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch; call it before iterating the loader."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.manifest.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Returns the normalized image, ``(3, H, W)`` float32, and its label.

        Args:
            index: Position in the manifest.

        Raises:
            DataError: if the image cannot be read; it is never replaced by another one.
        """
        return self._normalize(self.image(index)), self.manifest.images[index].label

    def describe(self, index: int) -> str:
        """Returns the file of an item, for messages."""
        return str(self.manifest.path(self.manifest.images[index]))

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        """Returns the augmented image of an item before normalization, ``(H, W, 3)`` uint8 RGB."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} images")
        resized = self._cache[index] if self._cache is not None else self._resized(index)
        return self.augmentation.apply(resized, item_seed(self.seed, self.epoch, index))

    def _resized(self, index: int) -> npt.NDArray[np.uint8]:
        path = self.manifest.path(self.manifest.images[index])
        return self.augmentation.resize(read_image(path))

    def _read_all(self) -> npt.NDArray[np.uint8]:
        side = self.augmentation.resized_size
        needed, free = len(self) * side * side * 3, free_memory()
        if needed > 0.8 * free:
            raise ConfigError(
                f"cache: {len(self)} images of {side} px need {needed / 2**30:.1f} GiB, and "
                f"{free / 2**30:.1f} GiB are free - turn the cache off, or use smaller images",
                setting="cache",
            )
        images = np.empty((len(self), side, side, 3), dtype=np.uint8)

        def read(index: int) -> None:
            images[index] = self._resized(index)

        map_images(read, range(len(self)), self.manifest.name)
        images.setflags(write=False)
        return images


def item_seed(seed: int, epoch: int, index: int) -> int:
    """Returns the seed of one item in one epoch, 64 bits."""
    return int(np.random.SeedSequence((seed, epoch, index)).generate_state(1, np.uint64)[0])
