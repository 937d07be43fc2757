"""Settings of the round trips through files, whose fixtures give each example the same folder."""

from hypothesis import HealthCheck, settings

ROUND_TRIPS = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
