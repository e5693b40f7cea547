"""A trial of a retriever: distorted copies of gallery images, searched, and what came back."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import torch
from PIL import Image

from ..gallery.views import Gallery, View, fit
from ..image_to_image import ImageToImageRetriever
from .compare import Comparison, compare, enlarge
from .distort import distort
from .page import Finding

BATCH = 32  # images at a time, while encoding and while searching; mmpretrain's own
ENLARGED_NOISE = 0.05


@dataclass(frozen=True)
class Recall:
    """How often something of a kind came back, as shares of the queries."""

    what: str
    first: float
    """At rank 1."""
    any: float
    """Among all matches."""
    chance: float
    """At rank 1, if matches were drawn from the gallery by lot."""


@torch.inference_mode()
def faster_threads(retriever: ImageToImageRetriever, gallery: Gallery) -> int:
    """How many threads torch should use here: all it would, or one.

    Where other programs hold the cores, threads that wait for each other are ten times slower than
    one alone.
    """
    images = [gallery[row]["inputs"] for row in range(min(BATCH, len(gallery)))]
    seconds = {}
    usual = torch.get_num_threads()
    for threads in {usual, 1}:
        torch.set_num_threads(threads)
        retriever.extract_feat(images)
        start = time.perf_counter()
        for _ in range(2):
            retriever.extract_feat(images)
        seconds[threads] = time.perf_counter() - start
    torch.set_num_threads(usual)
    return min(seconds, key=seconds.__getitem__)


def draw_queries(gallery: Gallery, count: int, seed: int) -> list[tuple[int, Image.Image]]:
    """Rows of the gallery, without repeats, and a distorted copy of each.

    Only images large enough to be known again are drawn, where there are any.
    """
    large = [row for row, view in enumerate(gallery.views) if view.is_large]
    rows = large or range(len(gallery))
    drawn = Random(seed).sample(rows, min(count, len(rows)))
    return [(row, distort(gallery.image(row), Random(f"{seed} {row}"))) for row in drawn]


def search(
    retriever: ImageToImageRetriever, gallery: Gallery, queries: Sequence[tuple[int, Image.Image]]
) -> Iterator[Finding]:
    """Each query with its matches."""
    for start in range(0, len(queries), BATCH):
        batch = queries[start : start + BATCH]
        samples = retriever.predict([fit(image, gallery.image_size) for _, image in batch])
        for (source, image), sample in zip(batch, samples, strict=True):
            rows, scores = sample.pred_label.tolist(), sample.pred_score.tolist()
            yield Finding(image, gallery.views[source].label, source, rows, scores)


def measure_recall(findings: Sequence[Finding], gallery: Gallery) -> list[Recall]:
    """From lenient to strict. The second: tiles of different grids overlap, so several are right.

    Findings need a source.
    """

    def same_photograph(a: View, b: View) -> bool:
        return a.photograph is b.photograph

    return [
        _recall("an image from the same photograph", findings, gallery, same_photograph),
        _recall("an image that shows the same part", findings, gallery, View.overlaps),
        _recall("the very image it was made from", findings, gallery, lambda a, b: a is b),
    ]


def _recall(
    what: str, findings: Sequence[Finding], gallery: Gallery, accept: Callable[[View, View], bool]
) -> Recall:
    first = among = chance = 0.0
    for finding in findings:
        assert finding.source is not None
        source = gallery.views[finding.source]
        accepted = {row for row, view in enumerate(gallery.views) if accept(source, view)}
        first += finding.rows[0] in accepted
        among += not accepted.isdisjoint(finding.rows)
        chance += len(accepted) / len(gallery)
    return Recall(what, first / len(findings), among / len(findings), chance / len(findings))


def compare_searches(
    retriever: ImageToImageRetriever,
    gallery: Gallery,
    findings: Sequence[Finding],
    enlarged_rows: int,
    seed: int,
) -> Iterator[Comparison]:
    """The ways to search, on one batch of queries: in the gallery, then in an enlarged one."""
    images = [fit(finding.image, gallery.image_size) for finding in findings[:BATCH]]
    with torch.inference_mode():
        features = retriever.extract_feat(images)
    prototypes, k = retriever.prototype_vecs, len(findings[0].rows)
    yield compare("Search in this gallery", features, prototypes, k)
    if enlarged_rows > len(prototypes):
        noise = f"{100 * ENLARGED_NOISE:.0f} % noise"
        title = f"Search in the same features, repeated with {noise}: no new images"
        large = enlarge(prototypes, enlarged_rows, ENLARGED_NOISE, seed)
        yield compare(title, features, large, k)
