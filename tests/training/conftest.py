import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    """As studies fit; threads only get into each other's way at this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
