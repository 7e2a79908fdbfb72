import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    """One thread, as in studies; at this size more threads are slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
