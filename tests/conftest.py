"""What all tests share: the devices they run on and how hypothesis draws."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("laws", max_examples=40, deadline=None, derandomize=True)
settings.load_profile("laws")


@pytest.fixture(scope="session", params=["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
def device(request: pytest.FixtureRequest) -> str:
    """Every device at hand: the laws hold on each of them."""
    return request.param
