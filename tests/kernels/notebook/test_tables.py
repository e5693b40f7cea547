"""What a notebook shows: small, escaped, and never an error."""

from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from flashmatch import Matches, PrototypeBank, topk
from flashmatch.kernels.contract.matches import Hits
from flashmatch.kernels.notebook import tables
from flashmatch.kernels.storage.ids.names import as_name_array


class Reader(HTMLParser):
    """Text of the cells, line by line, and what else there is."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.caption, self.lines, self.open = "", [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        assert tag in ("table", "caption", "tr", "th", "td")
        self.open.append(tag)
        if tag == "tr":
            self.lines.append([])
        elif tag in ("th", "td"):
            self.lines[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["caption"]:
            self.caption += data
        elif self.open[-1:] in (["th"], ["td"]):
            self.lines[-1][-1] += data


def read(value: object) -> Reader:
    return Reader(value._repr_html_())  # pyright: ignore


def rows_of(count: int) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(0))


def test_matches() -> None:
    matches = Matches(torch.tensor([[0.987654321, -torch.inf]]), torch.tensor([[17, -1]]))
    for each in (matches, Matches(*(x.numpy() for x in matches))):  # pyright: ignore
        shown = read(each)
        assert shown.caption == "Matches: 1 queries, 2 ranks"
        assert shown.lines == [["query", "0", "1"], ["0", "0.98765 (17)", "-inf (-1)"]]


@pytest.mark.parametrize("queries", [0, 1, 10, 11, 1000])
@pytest.mark.parametrize("k", [0, 1, 10, 11, 1000])
def test_at_most_ten_by_ten(queries: int, k: int) -> None:
    scores = torch.zeros(queries, k)
    shown = read(Matches(scores, scores.long()))
    assert shown.caption == f"Matches: {queries} queries, {k} ranks"
    header = ["query", *map(str, range(min(k, 10))), *["…"] * (k > 10)]
    line = [*["0 (0)"] * min(k, 10), *["…"] * (k > 10)]
    lines = [[str(q), *line] for q in range(min(queries, 10))]
    lines += [["…"] * len(header)] * (queries > 10)
    assert shown.lines == [header, *lines]
    assert len(Matches(scores, scores.long())._repr_html_()) < 8000


def test_names_are_escaped() -> None:
    scores = torch.zeros(1, 3)
    hits = Hits(scores, as_name_array(["<b>&\"'</b>", "\udc80", None])[None])  # pyright: ignore
    text = hits._repr_html_()
    assert "<b>" not in text
    shown = read(hits)
    assert shown.caption == "Hits: 1 queries, 3 ranks"
    assert shown.lines[1] == ["0", "0 (<b>&\"'</b>)", "0 (\\udc80)", "0 (None)"]
    text.encode()  # as it is sent to a browser
    long = Hits(scores, as_name_array(["x" * 10**6] * 3)[None])  # pyright: ignore
    assert len(long._repr_html_()) < 800
    bank = PrototypeBank(rows_of(3), ids=["<i>", "b", "c"])
    assert "<i>" not in bank.search(rows_of(2), 3)._repr_html_()


def test_nothing_to_read_is_no_error() -> None:
    meta = torch.empty(3, 2, device="meta")
    assert read(Matches(meta, meta)).caption == "Matches: 3 queries, 2 ranks, on meta"
    with FakeTensorMode():
        fake = torch.zeros(3, 2)
        assert read(Matches(fake, fake)).caption == "Matches: 3 queries, 2 ranks"
    for scores in (torch.zeros(3), torch.zeros(2, 3, 4), None, [[1.0]], ()):
        read(Matches(scores, scores))  # pyright: ignore
    read(Matches(torch.zeros(2, 2), torch.zeros(2)))
    shapes = []

    rows = rows_of(5)

    def seen(query: Tensor) -> Tensor:
        found = topk(query[None], rows, 2)
        shapes.append(read(found).caption)
        return found.scores

    torch.func.vmap(seen)(rows_of(3))
    assert shapes == ["Matches: 1 queries, 2 ranks"]
    queries = rows_of(2).requires_grad_()
    assert len(read(topk(queries, rows_of(5), 2)).lines) == 3


def test_banks() -> None:
    bank = PrototypeBank(rows_of(5), metric="dot", screen="float", ids=list("abcde"))
    shown = read(bank)
    assert shown.caption == "PrototypeBank"
    assert dict(map(tuple, shown.lines)) == {
        "prototypes": "5",
        "width": "4",
        "dtype": "torch.float32",
        "metric": "dot",
        "screen": "float",
        "device": "cpu",
        "ids": "strings",
        "beside the vectors": tables.size(bank.nbytes),
    }
    kinds = ((PrototypeBank(rows_of(5)), "integers"), (PrototypeBank(rows_of(0)), "none yet"))
    for each, kind in kinds:
        assert ["ids", kind] in read(each).lines


def test_sizes() -> None:
    sizes = {0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 2**20: "1 MiB"}
    sizes |= {2**30: "1 GiB", 5 * 2**40: "5120 GiB"}
    assert {count: tables.size(count) for count in sizes} == sizes


def test_arrays_of_numbers() -> None:
    half = np.zeros((1, 1), dtype=np.float16)
    assert read(Matches(half, half)).lines[1] == ["0", "0 (0.0)"]  # pyright: ignore
