import pytest


@pytest.fixture(scope="session", autouse=True)
def _keep_freed_memory() -> None:
    """The test process keeps freed memory, as workers do: the same results, in less time."""
    from certidote.numerics import keep_freed_memory

    keep_freed_memory()
