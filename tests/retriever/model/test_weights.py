"""`pretrained` and `init_cfg` load what they name, or say why not."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from flashmatch.retriever import ImageToImageRetriever, LossHead


def encoder(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def built(**options) -> ImageToImageRetriever:
    return ImageToImageRetriever(encoder(1), torch.ones(2, 3), **options)


def with_prefix(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def assert_loaded(retriever: ImageToImageRetriever) -> None:
    for value, wanted in zip(
        retriever.image_encoder.state_dict().values(), encoder().state_dict().values(), strict=True
    ):
        assert torch.equal(value, wanted)


def state() -> dict[str, Tensor]:
    return encoder().state_dict()


@pytest.mark.parametrize(
    "content",
    [
        state(),
        {"state_dict": state(), "epoch": 3},
        with_prefix("image_encoder.", state()),
        with_prefix("module.image_encoder.", state()),
        {**state(), "fc.weight": torch.ones(2, 2)},
        {key: value for key, value in state().items() if "num_batches" not in key},
    ],
    ids=["encoder", "nested", "retriever", "DDP", "with a classifier", "old"],
)
def test_pretrained_is_really_loaded(content: dict, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pt")
    assert_loaded(built(pretrained=tmp_path / "weights.pt"))
    assert_loaded(built(init_cfg={"type": "Pretrained", "checkpoint": tmp_path / "weights.pt"}))


def test_safetensors_and_prefix(tmp_path: Path) -> None:
    path = str(tmp_path / "weights.safetensors")
    save_file({**with_prefix("backbone.", state()), "backbone2.x": torch.ones(1)}, path)
    for prefix in ("backbone", "backbone."):
        config = {"type": "Pretrained", "checkpoint": path, "prefix": prefix}
        assert_loaded(built(init_cfg=config))
    with pytest.raises(ValueError, match=r"no key starts with 'neck'; found backbone\.0\.bias"):
        built(init_cfg={"type": "Pretrained", "checkpoint": path, "prefix": "neck"})
    with pytest.raises(ValueError, match=r"6 of the encoder's 7 weights are not in"):
        built(pretrained=path)


def test_head_is_loaded_too(tmp_path: Path) -> None:
    class Proxies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))

        def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
            return embeddings.sum()

    trained = built(head=LossHead(Proxies()))
    with torch.no_grad():
        trained.head.loss_fn.weight += 5  # pyright: ignore
    torch.save(trained.state_dict(), tmp_path / "all.pth")
    again = built(head=LossHead(Proxies()), pretrained=tmp_path / "all.pth")
    assert again.head.loss_fn.weight.tolist() == [5, 5]  # pyright: ignore


def test_keys_and_shapes_that_do_not_match_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(with_prefix("stem.", state()), path)
    with pytest.raises(
        ValueError, match=r"missing image_encoder\.0\.weight.*found image_encoder\.stem\.0\."
    ):
        built(pretrained=path)
    torch.save({**state(), "0.bias": torch.ones(9)}, path)
    with pytest.raises(ValueError, match=r"0\.bias must have shape \(3,\).* has \(9,\)"):
        built(pretrained=path)
    torch.save(torch.ones(2), path)
    with pytest.raises(ValueError, match="pretrained must hold a state dict; got Tensor"):
        built(pretrained=path)


def test_missing_files_and_wrong_configs_are_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pt")
    with pytest.raises(FileNotFoundError, match=r"pretrained must .*missing.pt', which does not"):
        built(pretrained=missing)
    with pytest.raises(IsADirectoryError, match="pretrained must be a file; got the folder"):
        built(pretrained=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"init_cfg\['checkpoint'\] must be an existing"):
        built(init_cfg={"type": "Pretrained", "checkpoint": missing})
    with pytest.raises(ValueError, match=r"init_cfg must be .* got \{'type': 'Kaiming'\}"):
        built(init_cfg={"type": "Kaiming"})
    with pytest.raises(ValueError, match="must not both be given"):
        built(pretrained=missing, init_cfg={"type": "Pretrained", "checkpoint": missing})


def test_encoder_without_weights_cannot_be_pretrained(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="image_encoder has no weights to load"):
        ImageToImageRetriever(nn.Identity(), torch.ones(2, 3), pretrained=tmp_path / "weights.pt")
