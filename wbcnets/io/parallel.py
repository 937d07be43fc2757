"""Work on many images in a few threads, with all problems in one error; the memory for it."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from wbcnets.errors import DataError

_THREADS = 4
_MOST_AT_ONCE = 32
_AHEAD = 4
# From this many images on a person wants to see the progress
_MANY = 2000
Item = TypeVar("Item")
Result = TypeVar("Result")


def try_images(
    function: Callable[[Item], Result], items: Iterable[Item], title: str
) -> list[Result | DataError]:
    """Returns the result or the error of a function for each image.

    Args:
        function: Handles one image and raises ``DataError`` if it cannot.
        items: The images in any form.
        title: The name of the set, for the progress bar.
    """

    def attempt(item: Item) -> Result | DataError:
        try:
            return function(item)
        except DataError as error:
            return error

    images = list(items)
    # Handing over one image costs as much as recalling its facts
    size = max(1, min(_MOST_AT_ONCE, len(images) // (16 * _THREADS)))
    parts = [images[start : start + size] for start in range(0, len(images), size)]
    few = len(images) < _MANY
    with ThreadPoolExecutor(_THREADS) as pool:
        done = pool.map(lambda part: [attempt(item) for item in part], parts)
        results = (result for part in done for result in part)
        return list(tqdm(results, title, len(images), unit="image", disable=few))


def read_ahead(read: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yields the result of a function for each item, in order; the next ones are under way.

    An error of the function is raised when its item's turn comes.

    Args:
        read: Handles one item; called in another thread.
        items: The items.
    """
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(read, item))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


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
    results = try_images(function, items, title)
    problems = [str(result) for result in results if isinstance(result, DataError)]
    if problems:
        raise DataError(f"{title}: {len(problems)} images {failure}", problems)
    return [result for result in results if not isinstance(result, DataError)]


def free_memory() -> float:
    """Returns the available memory in bytes; infinite if the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return math.inf
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    words = fields.get("MemAvailable", "").split()
    return int(words[0]) * 1024 if words else math.inf
