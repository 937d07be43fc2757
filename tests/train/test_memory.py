import pytest
import torch

from wbcnets.errors import OutOfMemoryError
from wbcnets.train.memory import explained_memory


def test_a_full_memory_says_what_to_lower():
    with (
        pytest.raises(OutOfMemoryError, match=r"out of memory with batch 9.*--resume.*most in use"),
        explained_memory("with batch 9"),
    ):
        torch.empty(1 << 60, dtype=torch.uint8)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError()]
)
def test_the_types_of_full_memory(error):
    with pytest.raises(OutOfMemoryError), explained_memory("x"):
        raise error


def test_other_errors_come_through():
    with pytest.raises(RuntimeError, match="shapes") as caught, explained_memory("x"):
        raise RuntimeError("shapes do not fit")
    assert not isinstance(caught.value, OutOfMemoryError)
