"""Images and prototypes of a retriever, the same in every test."""

import pytest
import torch
from torch import Tensor


@pytest.fixture
def images() -> Tensor:
    return torch.randn(5, 3, 4, 4)


@pytest.fixture
def vectors() -> Tensor:
    return torch.randn(31, 7)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
