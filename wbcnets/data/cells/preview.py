"""Contact sheets of an augmentation: each image beside its augmented versions."""

import numpy as np

from wbcnets.data.cells.augmentation import CellAugmentation, RgbImage
from wbcnets.data.cells.dataset import item_seed
from wbcnets.data.cells.manifest import CellManifest
from wbcnets.io.drawing import contact_sheet
from wbcnets.io.images import read_image


def preview_augmentation(
    manifest: CellManifest,
    augmentation: CellAugmentation,
    n_images: int = 8,
    n_versions: int = 5,
    seed: int = 0,
    tile_width: int = 160,
) -> RgbImage:
    """Draws one row per image, the original and augmented versions: ``(H, W, 3)`` uint8 RGB.

    Args:
        manifest: The images.
        augmentation: The pipeline.
        n_images: Largest number of rows; classes take turns.
        n_versions: Augmented versions per image: those of the first epochs of a run with this seed.
        seed: Seed of the choice of images and of the versions.
        tile_width: Width of each image in px.

    Raises:
        DataError: if an image cannot be read, or there is none.
    """
    tiles, captions = [], []
    for index in _take_turns(manifest, n_images, seed):
        image = read_image(manifest.path(manifest.images[index]))
        tiles.append(image)
        captions.append(manifest.class_names[manifest.images[index].label])
        for epoch in range(n_versions):
            tiles.append(augmentation(image, item_seed(seed, epoch, index)))
            captions.append(f"epoch {epoch}")
    return contact_sheet(tiles, n_versions + 1, captions, tile_width=tile_width)


def _take_turns(manifest: CellManifest, number: int, seed: int) -> list[int]:
    """Returns the indices of up to ``number`` images, one of each class in turn."""
    labels = np.array(manifest.labels)
    order = np.random.default_rng(seed).permutation(len(labels))
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        turn[members] = np.arange(len(members))
    chosen = sorted(range(len(labels)), key=lambda index: (turn[index], labels[index]))
    return chosen[:number]
