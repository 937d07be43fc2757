import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.data.cells.cell_images import draw_cell, save_cell
from wbcnets.data.cells import dataset as cell_dataset
from wbcnets.data.cells.augmentation import CellAugmentation
from wbcnets.data.cells.dataset import CellDataset, item_seed
from wbcnets.data.cells.manifest import CellImage, CellManifest
from wbcnets.errors import ConfigError, DataError

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.5, 0.1)


@pytest.fixture
def manifest(tmp_path):
    images = []
    for number in range(12):
        save_cell(tmp_path / f"{number}.png", number, side=40 + number % 3)
        images.append(CellImage(f"{number}.png", number % 4))
    return CellManifest("set", tmp_path, ("a", "b", "c", "d"), tuple(images))


def make(manifest, preset="stain", **options):
    return CellDataset(manifest, CellAugmentation(preset, 32), MEAN, STD, **options)


def read_epoch(loader):
    return torch.cat([images for images, _ in loader])


def test_normalization_and_labels(manifest):
    dataset = CellDataset(manifest, CellAugmentation("none", 40), MEAN, STD)
    pixels, label = dataset[3]
    expected = (draw_cell(3, side=40) / 255 - np.array(MEAN)) / np.array(STD)
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous()
    torch.testing.assert_close(
        pixels, torch.from_numpy(expected.transpose(2, 0, 1)).float(), atol=1e-5, rtol=1e-5
    )
    assert label == 3
    assert dataset.labels == [number % 4 for number in range(12)]
    assert len(dataset) == 12


def test_items_follow_from_seed_epoch_and_index(manifest):
    dataset, other = make(manifest, seed=5), make(manifest, seed=5)
    first = torch.stack([dataset[index][0] for index in range(12)])
    assert torch.equal(first, torch.stack([other[i][0] for i in reversed(range(12))]).flip(0))
    other.set_epoch(1)
    assert not torch.equal(first, torch.stack([other[index][0] for index in range(12)]))
    other.set_epoch(0)
    assert torch.equal(first[7], other[7][0])
    assert not torch.equal(first[7], make(manifest, seed=6)[7][0])


@pytest.mark.parametrize("cache", [False, True])
def test_any_number_of_workers_gives_the_same_items(manifest, cache):
    dataset = make(manifest, seed=1, cache=cache)
    loaders = [
        DataLoader(dataset, batch_size=5),
        DataLoader(dataset, batch_size=5, num_workers=1),
        DataLoader(dataset, batch_size=5, num_workers=2, persistent_workers=True),
    ]
    epochs = []
    for epoch in (0, 1, 4):
        dataset.set_epoch(epoch)
        first, *others = [read_epoch(loader) for loader in loaders]
        assert all(torch.equal(first, other) for other in others), epoch
        epochs.append(first)
    assert not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize("preset", ["none", "stain", "sckansformer"])
def test_the_cache_changes_no_item(manifest, preset):
    cached, plain = make(manifest, preset, cache=True), make(manifest, preset)
    assert all(torch.equal(cached[index][0], plain[index][0]) for index in range(12))
    side = cached.augmentation.resized_size
    assert (cached.cached_bytes, plain.cached_bytes) == (12 * side * side * 3, 0)
    for image in manifest.images:
        manifest.path(image).unlink()
    assert cached[11][0].shape == (3, 32, 32)


def test_unreadable_images_are_named_and_never_replaced(manifest):
    (manifest.root / "4.png").write_bytes(b"x")
    (manifest.root / "9.png").unlink()
    dataset = make(manifest)
    with pytest.raises(DataError, match=r"4\.png"):
        dataset[4]
    with pytest.raises(DataError) as caught:
        make(manifest, cache=True)
    assert len(caught.value.problems) == 2
    assert "9.png" in caught.value.problems[1]


def test_wrong_settings(manifest, monkeypatch):
    augmentation = CellAugmentation("none", 32)
    with pytest.raises(ConfigError, match="three finite numbers"):
        CellDataset(manifest, augmentation, (0.5,), (0.5,))
    with pytest.raises(ConfigError, match="std above 0"):
        CellDataset(manifest, augmentation, MEAN, (0.1, 0, 0.1))
    with pytest.raises(ConfigError, match="negative"):
        CellDataset(manifest, augmentation, MEAN, STD, seed=-1)
    with pytest.raises(IndexError):
        make(manifest)[12]
    monkeypatch.setattr(cell_dataset, "free_memory", lambda: 1000.0)
    with pytest.raises(ConfigError, match="turn the cache off"):
        make(manifest, cache=True)


def test_item_seeds_do_not_collide():
    seeds = {item_seed(s, e, i) for s in range(3) for e in range(20) for i in range(200)}
    assert len(seeds) == 3 * 20 * 200
