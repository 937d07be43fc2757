"""A picture of an augmentation: each original beside what it becomes."""

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
    """Draws images of all classes, a row each: the original, then augmented versions.

    Args:
        manifest: The images.
        augmentation: The pipeline.
        n_images: Rows at most; classes take turns.
        n_versions: Augmented versions per image: those of the first epochs of a run with this seed.
        seed: Of the choice of images and of the versions.
        tile_width: Width of each image in px.

    Returns:
        `(H, W, 3)` uint8 RGB.

    Raises:
        DataError: An image cannot be read, or there is none.
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
    """Indices of images of each class in turn."""
    labels = np.array(manifest.labels)
    order = np.random.default_rng(seed).permutation(len(labels))
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        turn[members] = np.arange(len(members))
    chosen = sorted(range(len(labels)), key=lambda index: (turn[index], labels[index]))
    return chosen[:number]
