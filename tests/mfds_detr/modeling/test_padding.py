import torch

from mfds_detr.modeling.padding import pyramids_by_size

SIZES = [(6, 8), (4, 12), (6, 8), (2, 2)]


def halves(images):
    """Two levels; a mean over the map, which padding would change, stands for a norm."""
    finest = images[:, :1, ::2, ::2]
    return [finest + images.mean((1, 2, 3), keepdim=True), finest[:, :, ::2, ::2]]


def batch():
    torch.manual_seed(0)
    return [torch.randn(3, *size) for size in SIZES]


def test_maps_are_those_of_each_image_alone():
    images = batch()
    features, masks = pyramids_by_size(images, halves)
    assert [tuple(level.shape) for level in features] == [(4, 1, 3, 6), (4, 1, 2, 3)]
    for index, image in enumerate(images):
        for level, mask, alone in zip(features, masks, halves(image[None])):
            height, width = alone.shape[2:]
            assert torch.equal(level[index, :, :height, :width], alone[0])
            assert not mask[index, :height, :width].any()
            assert (~mask[index]).sum() == height * width
            assert level[index, 0][mask[index]].eq(0).all()


def test_each_size_is_computed_once():
    calls = []
    pyramids_by_size(batch(), lambda images: calls.append(images.shape) or halves(images))
    assert calls == [(2, 3, 6, 8), (1, 3, 4, 12), (1, 3, 2, 2)]


def test_equal_sizes_have_no_mask():
    images = torch.randn(2, 3, 6, 8)
    for given in (images, list(images)):
        features, masks = pyramids_by_size(given, halves)
        assert masks is None
        assert all(torch.equal(a, b) for a, b in zip(features, halves(images)))
