"""When a batch does not fit into memory: said in words, with what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from medssl.imaging.errors import MedsslError

_OF_THE_CPU = "can't allocate memory"


class TooLittleMemoryError(MedsslError):
    """A step that needs more memory than the device or the processor has."""


@contextmanager
def out_of_memory(batch_size: int) -> Iterator[None]:
    """Tell in words that the memory did not suffice for the block, a step of so many crops.

    Raises:
        TooLittleMemoryError: It did not.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and _OF_THE_CPU not in str(error):
            raise
        raise TooLittleMemoryError(
            f"a step of {batch_size} crops needs more memory than there is ({str(error).splitlines()[0]}): take a "
            "smaller train.batch_size, or compute it in more parts (train.accumulate)",
            reason="out-of-memory",
        ) from error
