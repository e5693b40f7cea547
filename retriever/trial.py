"""A trial of a retriever: distorted copies of gallery images, searched, and what came back."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import torch
from PIL import Image

from .compare import Comparison, compare, enlarge
from .distort import distort
from .gallery import Gallery, View, fit
from .image_to_image import ImageToImageRetriever
from .report import Finding

BATCH = 32  # images at a time, while encoding and while searching; mmpretrain's own
ENLARGED_NOISE = 0.05


@dataclass(frozen=True)
class Recall:
    """How often something of a kind came back: at rank 1, and among all matches."""

    what: str
    first: float
    any: float


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
    """From strict to lenient: the tiles of different grids overlap, so that several are right."""

    def same_photograph(a: View, b: View) -> bool:
        return a.photograph is b.photograph

    return [
        _recall("the very image it was made from", findings, gallery, lambda a, b: a is b),
        _recall("an image that shows the same part", findings, gallery, View.overlaps),
        _recall("an image from the same photograph", findings, gallery, same_photograph),
    ]


def _recall(
    what: str,
    findings: Sequence[Finding],
    gallery: Gallery,
    accept: Callable[[View, View], bool],
) -> Recall:
    right = [
        [accept(gallery.views[finding.source], gallery.views[row]) for row in finding.rows]
        for finding in findings
        if finding.source is not None
    ]
    return Recall(
        what,
        sum(hits[0] for hits in right) / len(right),
        sum(any(hits) for hits in right) / len(right),
    )


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
        title = f"The same features repeated, with {ENLARGED_NOISE:.0%} noise (no new images)"
        large = enlarge(prototypes, enlarged_rows, ENLARGED_NOISE, seed)
        yield compare(title, features, large, k)
