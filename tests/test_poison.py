"""The fixture that other tests trust to betray memory nobody wrote."""

import pytest
import torch

before = torch.empty


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize(
    "make",
    [
        lambda dtype: torch.empty(3, 2, dtype=dtype),
        lambda dtype: torch.empty_like(torch.zeros(3, 2, dtype=dtype)),
        lambda dtype: torch.empty_strided((3, 2), (2, 1), dtype=dtype),
        lambda dtype: torch.zeros(1).new_empty(3, 2, dtype=dtype),
    ],
    ids=["empty", "empty_like", "empty_strided", "new_empty"],
)
def test_uninitialised_memory_is_poisoned(make) -> None:
    assert make(torch.float32).isnan().all()
    assert make(torch.bfloat16).isnan().all()
    assert (make(torch.int64) == torch.iinfo(torch.int64).min).all()
    assert make(torch.bool).all()
    assert torch.empty is not before
