import pytest
import torch

from wbcnets.engine.memory import explain_oom
from wbcnets.errors import OutOfMemoryError


def test_a_full_memory_says_what_to_lower():
    with (
        pytest.raises(
            OutOfMemoryError, match=r"out of memory with batch 9\. .*resume from it.*peak: "
        ),
        explain_oom("with batch 9"),
    ):
        torch.empty(1 << 60, dtype=torch.uint8)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried"),
        MemoryError(),
        RuntimeError("could not create a primitive"),  # oneDNN's
        RuntimeError("could not execute a primitive"),
    ],
)
def test_the_types_of_full_memory(error):
    with pytest.raises(OutOfMemoryError), explain_oom("x"):
        raise error


@pytest.mark.parametrize(
    "text", ["shapes do not fit", "could not create a primitive descriptor for a convolution"]
)
def test_other_errors_come_through(text):
    with pytest.raises(RuntimeError, match=text) as caught, explain_oom("x"):
        raise RuntimeError(text)
    assert not isinstance(caught.value, OutOfMemoryError)
