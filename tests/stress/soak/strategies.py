"""Hypothesis strategies for absurd datasets."""

from hypothesis import strategies as st

from tests.stress.faults.builders import HEIGHT, WIDTH

numbers = st.one_of(
    st.integers(-10, 80),
    st.floats(-10, 80),
    st.floats(allow_nan=True, allow_infinity=True),
)
junk = st.one_of(st.none(), st.text(max_size=3), st.booleans(), st.integers(-5, 5), st.floats())
valid_boxes = st.tuples(
    st.integers(0, WIDTH - 9), st.integers(0, HEIGHT - 9), st.integers(1, 9), st.integers(1, 9)
).map(list)
boxes = st.one_of(valid_boxes, st.lists(numbers, min_size=4, max_size=4), st.lists(junk), junk)


@st.composite
def coco_objects(draw, n_images=3):
    """Draws COCO objects with valid categories and images; all else may be wrong."""
    annotations = draw(
        st.lists(
            st.one_of(
                st.fixed_dictionaries(
                    {
                        "id": st.one_of(st.integers(-2, 30), junk),
                        "image_id": st.one_of(st.integers(0, n_images + 1), junk),
                        "category_id": st.one_of(st.integers(0, 3), junk),
                        "bbox": boxes,
                    },
                    optional={
                        "area": junk,
                        "iscrowd": st.one_of(st.integers(0, 1), junk),
                        "ignore": st.one_of(st.integers(0, 1), junk),
                        "segmentation": junk,
                    },
                ),
                junk,
            ),
            min_size=1,
            max_size=12,
        )
    )
    images = [
        {"id": index + 1, "file_name": f"{'abc'[index]}.png", "width": WIDTH, "height": HEIGHT}
        for index in range(n_images)
    ]
    categories = [{"id": 1, "name": "neutrophil"}, {"id": 2, "name": "lymphocyte"}]
    return {"images": images, "annotations": annotations, "categories": categories}
