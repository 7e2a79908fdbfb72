import gc

import pytest


@pytest.fixture(autouse=True, scope="session")
def _short_garbage_collections():
    """Holm's method in statsmodels collects garbage on every call, among all that torch has loaded."""
    gc.freeze()
    yield
    gc.unfreeze()
