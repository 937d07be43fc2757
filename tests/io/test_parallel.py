import pytest

from wbcnets.errors import DataError
from wbcnets.io.parallel import map_images, try_images


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


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 5000])
def test_results_keep_the_order_of_the_images(count):
    def halve(number):
        if number % 2:
            raise DataError(f"{number} is odd")
        return number // 2

    found = try_images(halve, range(count), "numbers")
    assert len(found) == count
    assert found[::2] == list(range((count + 1) // 2))
    assert [str(error) for error in found[1::2]] == [f"{n} is odd" for n in range(1, count, 2)]
