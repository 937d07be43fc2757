import pytest

from wbcnets.errors import DataError
from wbcnets.io.parallel import map_images


def test_results_keep_the_order():
    assert map_images(lambda number: number**2, range(50), "set") == [n**2 for n in range(50)]


def test_all_problems_are_in_one_error():
    def refuse_odd(number):
        if number % 2:
            raise DataError(f"{number} is odd")
        return number

    with pytest.raises(DataError, match="set: 3 images were refused") as caught:
        map_images(refuse_odd, range(6), "set", "were refused")
    assert caught.value.problems == ("1 is odd", "3 is odd", "5 is odd")


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError):
        map_images(lambda number: 1 / number, [0], "set")
