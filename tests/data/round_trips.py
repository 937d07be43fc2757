"""Settings of the round trips through files, whose fixtures give each example the same folder."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

ROUND_TRIPS = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def lists_of_boxes(*numbers, max_size):
    """Returns a strategy of unique boxes from one strategy per number of a box."""
    return st.lists(st.tuples(*numbers), min_size=1, max_size=max_size, unique=True)
