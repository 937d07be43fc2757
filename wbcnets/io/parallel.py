"""Work on many files in a few threads, with all problems in one error."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from wbcnets.errors import DataError

THREADS = 4
Item = TypeVar("Item")
Result = TypeVar("Result")


def map_images(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    title: str,
    failure: str = "cannot be used",
) -> list[Result]:
    """Returns the results of a function for all images.

    Args:
        function: Handles one image and raises ``DataError`` if it cannot.
        items: The images in any form.
        title: The name of the set, for the error.
        failure: The rest of the sentence "3 images ...".

    Raises:
        DataError: if the function raises it for any image; its problems are all the messages.
    """

    def attempt(item: Item) -> Result | DataError:
        try:
            return function(item)
        except DataError as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(attempt, items))
    problems = [str(result) for result in results if isinstance(result, DataError)]
    if problems:
        raise DataError(f"{title}: {len(problems)} images {failure}", problems)
    return [result for result in results if not isinstance(result, DataError)]
