"""Every kind of prototype gives the same matrix; every way to get it wrong gives an error."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
)
from two_processes import in_two_processes

from flashmatch.retriever import DataSample, ImageToImageRetriever, collate

ROWS, CHANNELS = 11, 6


def images_of(rows: int = ROWS) -> Tensor:
    return torch.randn(rows, 3, 2, 2, generator=torch.Generator().manual_seed(1))


def encoder() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, CHANNELS))


def expected(rows: int = ROWS) -> Tensor:
    return encoder()(images_of(rows)).detach()


class Samples(Dataset):
    """Items as mmpretrain's datasets give them; ``index`` says which sample_idx item i has."""

    def __init__(self, rows: int = ROWS, index=lambda i: i) -> None:
        self.images, self.index = images_of(rows), index

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict:
        index = self.index(i)
        metainfo = {} if index is None else {"sample_idx": index}
        return {"inputs": self.images[i], "data_samples": DataSample(metainfo=metainfo)}


class Stream(IterableDataset):
    def __init__(self, index=None) -> None:
        self.samples = Samples(index=index or (lambda i: None))

    def __iter__(self):
        return (self.samples[i] for i in range(len(self.samples)))


def retriever_of(prototype, **options) -> ImageToImageRetriever:
    return ImageToImageRetriever(encoder(), prototype, progress=False, **options)


def prepared(prototype, **options) -> ImageToImageRetriever:
    retriever = retriever_of(prototype, **options)
    retriever.prepare_prototype()
    return retriever


def loader(dataset: Dataset, **options) -> DataLoader:
    return DataLoader(dataset, **{"batch_size": 4, "collate_fn": collate, **options})


def assert_rows(retriever: ImageToImageRetriever, rows: Tensor, ids=None) -> None:
    torch.testing.assert_close(retriever.prototype_vecs, rows)
    assert retriever.prototype_ids.tolist() == (ids or list(range(len(rows))))


# The kinds, each against the original's formula


KINDS = """tensor, parameter, float64 tensor, array, backward array, path, str, only matrix,
safetensors, loader of samples, shuffled loader of samples, loader of tuples,
shuffled loader of tuples, loader of bare images, loader with workers, loader of a stream,
loader without batching, config of an object, config of configs""".replace("\n", " ").split(", ")


def kinds(folder: Path) -> dict:
    vectors, images = expected(), images_of()
    torch.save(vectors, folder / "bare.pt")
    torch.save({"prototypes": vectors, "other": torch.ones(2, 2)}, folder / "named.pth")
    torch.save({"anything": vectors, "labels": torch.ones(11)}, folder / "only.pt")
    save_file({"features": vectors}, folder / "file.safetensors")
    tensors = TensorDataset(images, torch.arange(ROWS))
    return {
        "tensor": vectors,
        "parameter": nn.Parameter(vectors),
        "float64 tensor": vectors.double(),
        "array": vectors.numpy(),
        "backward array": _read_only(vectors),
        "path": folder / "bare.pt",
        "str": str(folder / "named.pth"),
        "only matrix": folder / "only.pt",
        "safetensors": folder / "file.safetensors",
        "loader of samples": loader(Samples()),
        "shuffled loader of samples": loader(Samples(), shuffle=True),
        "loader of tuples": DataLoader(tensors, batch_size=4),
        "shuffled loader of tuples": DataLoader(tensors, batch_size=4, shuffle=True),
        "loader of bare images": DataLoader(images, batch_size=4),  # pyright: ignore
        "loader with workers": loader(Samples(index=lambda i: None), shuffle=True, num_workers=1),
        "loader of a stream": loader(Stream()),
        "loader without batching": DataLoader(Samples(), batch_size=None, collate_fn=one),
        "config of an object": {"dataset": Samples(), "batch_size": 3},
        "config of configs": {
            "dataset": {"type": Samples, "rows": ROWS},
            "batch_size": 3,
            "sampler": {"type": "DefaultSampler", "shuffle": True},
            "collate_fn": {"type": "flashmatch.retriever.collate"},
        },
    }


def _read_only(vectors: Tensor) -> np.ndarray:
    array = vectors.double().flip(0).numpy()[::-1]
    array.flags.writeable = False
    return array


def one(item: dict) -> dict:
    return {key: [value] for key, value in item.items()}


@pytest.fixture(scope="module")
def prototypes(tmp_path_factory) -> dict:
    made = kinds(tmp_path_factory.mktemp("prototypes"))
    assert list(made) == KINDS
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_equals_the_originals_formula(kind: str, prototypes: dict) -> None:
    retriever = retriever_of(prototypes[kind])
    queries = torch.randn(5, 3, 2, 2)
    with torch.no_grad():
        feats = retriever.image_encoder(queries)
    scores = torch.cosine_similarity(feats.unsqueeze(1), expected().unsqueeze(0), dim=-1)
    values, labels = scores.sort(descending=True, dim=-1)
    result = retriever.matching(feats)
    assert_rows(retriever, expected())
    torch.testing.assert_close(result["score"], scores, rtol=0, atol=2e-7)
    torch.testing.assert_close(result["pred_score"], values, rtol=0, atol=2e-7)
    assert torch.equal(result["pred_label"], labels)
    assert retriever.prototype_vecs.dtype == torch.float32
    assert not retriever.prototype_vecs.requires_grad
    assert not retriever.prototype_vecs.is_inference()


# The original's traps


def test_samples_with_and_without_index_are_refused() -> None:
    mixed = loader(Samples(index=lambda i: i if i % 2 else None))
    with pytest.raises(ValueError, match=r"must have a sample_idx, or none; got 2 of 4 in a batch"):
        prepared(mixed)


def test_subset_with_offset_indices_keeps_the_datasets_order() -> None:
    part = [5, 2, 9]
    assert_rows(prepared(loader(Subset(Samples(), part))), expected()[part], part)
    unnamed = Subset(Samples(index=lambda i: None), part)
    assert_rows(prepared(loader(unnamed, shuffle=True)), expected()[part])


def test_indices_from_an_offset_are_kept_as_ids() -> None:
    retriever = prepared(loader(Samples(index=lambda i: 1000 - i)))
    assert_rows(retriever, expected(), [1000 - i for i in range(ROWS)])
    retriever.topk = 1
    (sample,) = retriever.predict(images_of()[3:4])
    assert retriever.prototype_ids[sample.pred_label].tolist() == [997]


def test_complete_indices_decide_the_rows_whatever_the_order() -> None:
    backwards = loader(Samples(index=lambda i: ROWS - 1 - i))
    assert_rows(prepared(backwards), expected().flip(0))


def test_stream_with_indices_is_ordered_by_them() -> None:
    retriever = prepared(loader(Stream(index=lambda i: 100 - 10 * i)))
    assert_rows(retriever, expected().flip(0), [100 - 10 * i for i in range(ROWS)][::-1])


def test_empty_loader_is_an_error() -> None:
    with pytest.raises(ValueError, match="gave no samples"):
        prepared(loader(Samples(rows=0)))


def test_assigned_prototype_is_prepared_on_next_use() -> None:
    retriever = retriever_of(expected(), topk=1)
    assert int(retriever.predict(images_of()[:1])[0].pred_label) == 0
    retriever.prototype = expected().flip(0)
    assert int(retriever.predict(images_of()[:1])[0].pred_label) == ROWS - 1
    with pytest.raises(TypeError, match=r"prototype must be .* got int"):
        retriever.prototype = 3  # pyright: ignore
    assert int(retriever.predict(images_of()[:1])[0].pred_label) == ROWS - 1


def test_prepare_prototype_sees_new_weights() -> None:
    retriever = prepared(loader(Samples()))
    with torch.no_grad():
        retriever.image_encoder[1].bias += 1
    retriever.prepare_prototype()
    assert_rows(retriever, expected() + 1)


def test_tensor_on_the_right_device_is_not_copied() -> None:
    vectors = expected()
    assert prepared(vectors).prototype_vecs.data_ptr() == vectors.data_ptr()


def test_images_of_unequal_sizes_are_padded_together() -> None:
    images = [torch.ones(3, 2, 2), torch.ones(3, 1, 2)]
    retriever = prepared({"dataset": images, "batch_size": 2})
    padded = torch.stack([images[0], torch.tensor([[1.0, 1], [0, 0]]).expand(3, 2, 2)])
    torch.testing.assert_close(retriever.prototype_vecs, encoder()(padded))


def test_config_is_never_changed() -> None:
    config = {
        "dataset": {"type": Samples, "rows": ROWS},
        "batch_size": 3,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
    }
    before = copy.deepcopy(config)
    prepared(config)
    assert config == before


# What is refused, and when


@pytest.mark.parametrize(
    ("prototype", "error", "message"),
    [
        (None, TypeError, "prototype must be a tensor .* got NoneType"),
        ([[1.0, 2.0]], TypeError, "got list"),
        (torch.ones(3), ValueError, r"shape \(M, C\) .* got \(3,\)"),
        (torch.ones(3, 0), ValueError, r"got \(3, 0\)"),
        (torch.ones(3, 2, dtype=torch.complex64), ValueError, "real numbers; got torch.complex64"),
        (np.array([["a"]]), ValueError, "real numbers; got dtype <U1"),
        ("no/such/file.pt", FileNotFoundError, "got 'no/such/file.pt', which does not exist"),
        ("gallery.npy", FileNotFoundError, "'gallery.npy', which does not exist"),
        (__file__, ValueError, "prototype must end in .safetensors, .pt, .pth; got "),
        (".", IsADirectoryError, "prototype must be a file; got the folder '.'"),
        ({1.0}, TypeError, "prototype must be a tensor .* got set"),
        (b"gallery.pt", TypeError, "prototype must be a tensor .* got bytes"),
        (Samples(), TypeError, r"got Samples: torch.utils.data.DataLoader\(it\), or dict"),
        ([torch.ones(3)], TypeError, r"got list: .*torch.stack\(it\) of vectors, is taken"),
        (np.ma.masked_equal([[1.0, 2.0]], 2), TypeError, "without a mask; got a MaskedArray"),
        (torch.eye(3).to_sparse(), TypeError, "prototype must be a dense .* torch.sparse_coo"),
        (torch.eye(3).to_sparse_csr(), TypeError, "prototype must be a dense .* torch.sparse_csr"),
        (torch.eye(3).to_mkldnn(), TypeError, "prototype must be a dense .* torch._mkldnn"),
        (torch.eye(3, device="meta"), TypeError, "prototype must be a dense .* meta"),
        (torch.nested.nested_tensor([torch.ones(2)]), TypeError, "prototype .* nested tensor"),
        ({"batch_size": 3}, ValueError, "prototype must have the key 'dataset'"),
        ({"dataset": {"type": "no.such.Thing"}}, ValueError, r"'no.such.Thing'"),
        ({"dataset": {"rows": 3}}, ValueError, "must have a 'type'"),
    ],
    ids=str,
)
def test_constructor_refuses(prototype, error, message: str) -> None:
    with pytest.raises(error, match=message):
        retriever_of(prototype)


def test_nonfinite_prototypes_are_refused() -> None:
    vectors = expected()
    vectors[4, 1] = torch.nan
    with pytest.raises(ValueError, match=r"prototype must be finite .* 1 rows, first \[4\]"):
        prepared(vectors)


@pytest.mark.parametrize(
    ("batch", "message"),
    [({"pictures": 1}, "must have the key 'inputs'"), ((), "its collate_fn dropped all of 11")],
)
def test_strange_batches_are_refused(batch, message: str) -> None:
    strange = loader(Samples(), collate_fn=lambda items: batch)
    with pytest.raises(ValueError, match=message):
        prepared(strange)


def test_unpooled_features_are_refused() -> None:
    with pytest.raises(ValueError, match="pooled and flattened; got"):
        ImageToImageRetriever(nn.Identity(), loader(Samples()), progress=False).prepare_prototype()


# Files


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_dump_and_load(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"gallery{suffix}"
    part = [5, 2, 9]
    retriever_of(loader(Subset(Samples(), part))).dump_prototype(path)
    again = prepared(path)
    ids = part if suffix == ".safetensors" else None
    assert_rows(again, expected()[part], ids)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    if suffix != ".safetensors":
        assert torch.equal(torch.load(path, weights_only=True), again.prototype_vecs)


def test_dump_refuses_other_suffixes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="path must end in"):
        retriever_of(expected()).dump_prototype(tmp_path / "gallery.npy")


# Several processes


def encoded(rank: int) -> dict[str, Tensor]:
    sampler = {"sampler": torch.utils.data.DistributedSampler(Samples(), shuffle=False)}
    cases = {
        "padded": loader(Samples(), **sampler),
        "padded, without index": loader(Samples(index=lambda i: None), **sampler),
        "each has all": loader(Samples()),
        "config": {"dataset": Samples(index=lambda i: None), "batch_size": 4},
        "uneven": loader(Samples(), sampler=range(3) if rank else range(3, ROWS)),
        "one has none": loader(Samples(), sampler=[] if rank else range(ROWS)),
    }
    return {name: prepared(case).prototype_vecs for name, case in cases.items()}


def test_two_processes_share_the_work_and_sum_nothing(tmp_path: Path) -> None:
    for rank, vectors in enumerate(in_two_processes(encoded, tmp_path)):
        assert len(vectors) == 6
        for name, rows in vectors.items():
            torch.testing.assert_close(rows, expected(), msg=f"rank {rank}: {name}")
