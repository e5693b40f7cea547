"""DataSample keeps the original's setters and attributes; labels come from anything sensible."""

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flashmatch.retriever import DataSample, LossHead, collate
from flashmatch.retriever.batches.labels import labels_of
from flashmatch.retriever.batches.samples import as_samples


def test_setters_return_the_sample_and_accept_what_the_originals_do() -> None:
    sample = DataSample(metainfo={"img_path": "a.jpg"})
    assert sample.set_gt_label(3) is sample
    assert sample.gt_label.tolist() == [3]
    assert sample.set_pred_label(torch.tensor(2)).pred_label.tolist() == [2]
    assert sample.set_gt_label(np.array([1, 2])).gt_label.dtype == torch.int64
    assert sample.set_pred_score([0.1, 0.9]).pred_score.dtype == torch.float32
    assert sample.num_classes == 2
    kept = torch.tensor([0.5, 0.5], dtype=torch.float64)
    assert sample.set_gt_score(kept).gt_score is kept


def test_score_lengths_must_agree() -> None:
    sample = DataSample().set_pred_score([0.1, 0.9])
    with pytest.raises(ValueError, match="gt_score must have num_classes = 2 entries; got 3"):
        sample.set_gt_score([1.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("value", "error"), [(torch.ones(2, 2), ValueError), ("ab", TypeError), (None, TypeError)]
)
def test_labels_and_scores_are_vectors(value, error) -> None:
    for setter in ("set_gt_label", "set_pred_score"):
        with pytest.raises(error, match=setter.removeprefix("set_")):
            getattr(DataSample(), setter)(value)


def test_data_and_metadata_are_told_apart() -> None:
    sample = DataSample(metainfo={"sample_idx": 4}, gt_label=torch.tensor([1]))
    assert sample.keys() == ["gt_label"]
    assert sample.metainfo == {"sample_idx": 4}
    assert "sample_idx" in sample
    assert "pred_label" not in sample
    assert sample.get("sample_idx") == sample.sample_idx == 4
    assert sample.get("pred_label", 7) == 7
    assert set(sample.to_dict()) == {"sample_idx", "gt_label"}
    assert "sample_idx=4" in repr(sample)
    with pytest.raises(AttributeError):
        _ = sample.pred_label


def test_moves_copies_and_pickles() -> None:
    sample = DataSample(metainfo={"sample_idx": 4}, gt_score=torch.ones(2))
    half = sample.to(torch.float16)
    assert (half.gt_score.dtype, sample.gt_score.dtype) == (torch.float16, torch.float32)
    for twin in (copy.copy(sample), copy.deepcopy(sample), sample.cpu()):
        twin.set_metainfo({"new": 1})
        assert "new" not in sample
    assert pickle.loads(pickle.dumps(sample)).sample_idx == 4


def test_labels_of() -> None:
    labels = torch.tensor([1, 0])
    samples = [DataSample().set_gt_label(1), DataSample().set_gt_label(0)]
    for kind in (labels, [1, 0], list(labels), samples):
        assert torch.equal(labels_of(kind), labels)
    for sample in samples:
        sample.set_gt_score([0.5, 0.5])
    assert labels_of(samples).tolist() == [[0.5, 0.5]] * 2
    with pytest.raises(ValueError, match="got list of DataSample"):
        labels_of([DataSample()])
    with pytest.raises(ValueError, match="one label per sample; got 2"):
        labels_of([DataSample().set_gt_label([1, 2])])
    with pytest.raises(ValueError, match="got NoneType"):
        labels_of(None)


def test_as_samples() -> None:
    assert len(as_samples(None, 3)) == 3
    assert [int(s.gt_label) for s in as_samples(torch.tensor([4, 5]), 2)] == [4, 5]
    assert [int(s.gt_label) for s in as_samples([4, 5], 2)] == [4, 5]
    own = [DataSample(), SimpleNamespace()]
    assert as_samples(own, 2) is own
    with pytest.raises(ValueError, match="one sample per image, 3; got 2"):
        as_samples([4, 5], 3)


def test_labels_of_any_kind_are_kept() -> None:
    assert [s.label for s in as_samples(("cat", "dog"), 2)] == ["cat", "dog"]
    assert [s.metainfo for s in as_samples([{"sample_idx": 7}, None], 2)] == [{"sample_idx": 7}, {}]
    columns = {"sample_idx": torch.tensor([3, 4]), "name": ["a", "b"]}
    found = as_samples(columns, 2)
    assert [(int(s.sample_idx), s.name) for s in found] == [(3, "a"), (4, "b")]
    with pytest.raises(ValueError, match=r"\['name'\] must have one entry per image, 3"):
        as_samples({"name": ["a", "b"]}, 3)
    soft = np.array([[0.25, 0.75]])
    assert as_samples(soft, 1)[0].gt_score.tolist() == [0.25, 0.75]
    assert as_samples(torch.tensor([[1, 0]]), 1)[0].gt_label.tolist() == [1, 0]
    mask = torch.ones(1, 2, 2)
    assert as_samples(mask[None], 1)[0].label is not None
    assert labels_of(np.array([1, 0])).tolist() == [1, 0]


def test_collate() -> None:
    assert collate([(1, 2), None, (3, 4)]) == ([1, 3], [2, 4])
    assert collate([{"inputs": 1, "samples": 2}] * 2) == {"inputs": [1, 1], "samples": [2, 2]}
    assert collate([5, 6]) == ([5, 6],)
    assert collate([None, None]) == ()
    for items in ([(1, 2), (3,)], [{"inputs": 1}, {"image": 1}], [(1, 2), 3]):
        with pytest.raises(ValueError, match="items must all have the same form; got"):
            collate(items)


def test_loss_head_passes_embeddings_and_labels() -> None:
    head = LossHead(lambda embeddings, labels: (embeddings.sum(), labels))
    feats = torch.ones(2, 3)
    total, labels = head.loss((feats * 0, feats), [1, 0])["loss"]
    assert (float(total), labels.tolist()) == (6, [1, 0])
    assert LossHead(torch.nn.CrossEntropyLoss()).loss(feats, [1, 0])["loss"].shape == ()
    with pytest.raises(TypeError, match="loss must be callable"):
        LossHead(3)  # pyright: ignore
