import json

import pytest
from PIL import Image

from wbcnets.data.detection.coco import load_coco
from wbcnets.errors import DataError


@pytest.fixture
def load(tmp_path):
    """Returns a function that loads a set of images, the second of each three without a box."""

    def make(numbers, name="set"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        images, annotations = [], []
        for index, number in enumerate(numbers):
            Image.new("RGB", (8, 8)).save(folder / f"{number}.png")
            images.append({"id": index, "file_name": f"{number}.png", "width": 8, "height": 8})
            if number % 3 != 1:
                box = {"bbox": [1, 1, 4, 5], "area": 20, "iscrowd": int(number % 3 == 2)}
                annotations.append(
                    {**box, "id": index, "image_id": index, "category_id": 1 + number % 2}
                )
        categories = [{"id": 1, "name": "WBC"}, {"id": 2, "name": "RBC"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        return load_coco(path, folder)

    return make


def names(dataset):
    return [image.file_name.rpartition("/")[2] for image in dataset.images]


def test_a_split_is_a_partition(load):
    whole = load(range(120))
    first, second = whole.split(0.25)
    assert sorted(names(first) + names(second)) == sorted(names(whole))
    assert not set(names(first)) & set(names(second))
    assert len(second.images) == pytest.approx(30, abs=14)
    for part in (first, second):
        kept = [image for image in whole.images if image in part.images]
        assert part.images == kept  # in their order
        boxes = sum(len(image.boxes) for image in part.images)
        assert part.counts.n_read == part.counts.n_used == boxes
        assert part.image_counts.n_used == len(part.images)
        assert (part.class_names, part.category_ids) == (whole.class_names, whole.category_ids)
    counts = [part.box_counts for part in (first, second)]
    assert {name: counts[0][name] + counts[1][name] for name in counts[0]} == whole.box_counts


def test_images_stay_in_their_part_when_others_come_or_go(load):
    out = set(names(load(range(60)).split(0.3)[1]))
    more = set(names(load(range(30, 120), "more").split(0.3)[1]))
    both = {f"{number}.png" for number in range(30, 60)}
    assert out & both == more & both
    # A larger part holds the smaller one
    assert out < set(names(load(range(60)).split(0.6)[1]))


@pytest.mark.parametrize(("count", "fraction"), [(1, 0.5), (6, 1e-6), (6, 0.999999)])
def test_an_empty_part_is_refused(load, count, fraction):
    with pytest.raises(DataError, match=rf"set\.json: {count} images are too few to hold"):
        load(range(count)).split(fraction)
