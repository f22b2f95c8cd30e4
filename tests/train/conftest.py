"""What tests that train have in common."""

import pytest
import torch

from dirprune.data import load_dataset


@pytest.fixture(scope="session")
def digits():
    return load_dataset("digits")


@pytest.fixture
def one_thread():
    """Train with one thread, as equal bits and short steps want it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
