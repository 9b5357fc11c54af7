import os

import pytest
import torch

os.environ["CERTIDOTE_CACHE"] = "off"  # tests leave nothing in the user's cache; those of the cache name a folder of their own

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # test processes beside each other: more threads than cores wait for one another most of the time


@pytest.fixture(scope="session", autouse=True)
def _keep_freed_memory() -> None:
    """The test process keeps freed memory, as workers do: the same results, in less time."""
    from certidote.numerics import keep_freed_memory

    keep_freed_memory()
