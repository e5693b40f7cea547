"""The demonstration: distorted photographs, found again among a thousand images."""

import sys
import time
from collections.abc import Callable, Sequence
from textwrap import fill

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from ..batches.collate import collate
from ..gallery.photographs import SUFFIXES, Photographs, photographs_in
from ..gallery.shipped import shipped_photographs
from ..gallery.views import Gallery, counted, cut_views, describe_views, fit
from ..image_to_image import ImageToImageRetriever
from ..images.read import UnreadableImage
from ..model.encoders import EFFICIENTNET_LITE0_PREPROCESS, EncoderSpec, build_encoder
from ..names import print_line, printable, quoted
from . import trial
from .compare import Comparison
from .distort import DESCRIPTION
from .options import (
    PAGE,
    DemoError,
    Options,
    cannot_write,
    read_query,
    require_image_size,
    require_options,
)
from .page import Finding, Page, write_page
from .table import align, comparison_cells, share

SHOWN_QUERIES = 40  # on the page, which would grow to many megabytes with all of them
WIDTH = 88  # of the terminal's text
CEILING = (
    "Tiles of different grids overlap, and tiles of textures (gravel, grass) look alike: the very "
    "image is not always the only good answer."
)
INSTALL = 'pip install "flashmatch[demo]"'
Show = Callable[[str], None]


def run(
    options: Options, image_encoder: EncoderSpec = "efficientnet-lite0", show: Show = print_line
) -> list[Finding]:
    """Build a gallery, search it, compare the ways to search, write the page.

    Raises:
        DemoError: an option that cannot work, or a package that is missing.
    """
    threads = torch.get_num_threads()
    try:
        return _run(options, image_encoder, show)
    except UnreadableImage as error:
        raise DemoError(f"--images must not change meanwhile; got {error}") from error
    finally:
        torch.set_num_threads(threads)


def _run(options: Options, image_encoder: EncoderSpec, show: Show) -> list[Finding]:
    started = time.perf_counter()
    require_options(options)
    query = None if options.query is None else read_query(options.query)
    encoder = _encoder(image_encoder)
    require_image_size(encoder, options.image_size)
    photographs = _photographs(options)
    _show_skipped(photographs.skipped, show)
    # One image is looked for among whole photographs; parts of them would only crowd the answer.
    views = cut_views(photographs.found, options.gallery if query is None else 0)
    gallery = Gallery(views, options.image_size)
    facts = [("gallery", f"{counted(len(views), 'image')}: {describe_views(views)}")]
    _show_fact(facts[-1], show)
    retriever = _retriever(encoder, gallery, options.topk)
    torch.set_num_threads(options.threads or trial.faster_threads(retriever, gallery))
    facts.append(("encoder", _encode(retriever, _name(image_encoder), options.image_size)))
    _show_fact(facts[-1], show)
    if query is not None:
        findings, page = _look_up(*query, retriever, gallery, facts, show)
    else:
        findings, page = _demonstrate(options, retriever, gallery, facts, show)
    if options.html:
        path = options.out / PAGE
        try:
            write_page(path, page, findings[:SHOWN_QUERIES], gallery)
        except (OSError, ValueError) as error:
            raise cannot_write(options.out, error) from error
        show(f"\npage     {printable(str(path))}")
    show(f"time     {time.perf_counter() - started:.0f} s in all")
    return findings


def _encoder(spec: EncoderSpec) -> nn.Module:
    try:
        return build_encoder(spec)
    except ImportError as error:
        raise DemoError(f"{error}\nEverything the demo needs: {INSTALL}") from error


def _photographs(options: Options) -> Photographs:
    if options.images is None:
        try:
            return shipped_photographs()
        except ImportError as error:
            raise DemoError(f"{error}: {INSTALL}, or give --images a folder") from error
    photographs = photographs_in(options.images, progress=sys.stderr.isatty())
    if not photographs.found:
        raise DemoError(
            f"--images must hold at least one readable image ({', '.join(sorted(SUFFIXES))}); "
            f"got {quoted(options.images)} with {len(photographs.skipped)} unreadable ones"
        )
    return photographs


def _show_skipped(skipped: Sequence[str], show: Show) -> None:
    if skipped:
        files = counted(len(skipped), "file")
        show(f"skipped  {files} that cannot be read as images, such as {skipped[0]}")


def _show_fact(fact: tuple[str, str], show: Show) -> None:
    name, text = fact
    show(fill(text, WIDTH, initial_indent=f"{name:<9}", subsequent_indent=" " * 9))


def _retriever(encoder: nn.Module, gallery: Gallery, topk: int) -> ImageToImageRetriever:
    retriever = ImageToImageRetriever(
        image_encoder=encoder,
        prototype=DataLoader(gallery, batch_size=trial.BATCH, collate_fn=collate),
        data_preprocessor=EFFICIENTNET_LITE0_PREPROCESS,
        topk=topk,
        channels_last=True,
        progress=sys.stderr.isatty(),
    )
    return retriever.eval()  # extract_feat, unlike predict, leaves the mode as it is


def _name(encoder: EncoderSpec) -> str:
    known = encoder == "efficientnet-lite0"
    return "EfficientNet-Lite0 (ImageNet)" if known else type(encoder).__name__


def _encode(retriever: ImageToImageRetriever, name: str, image_size: int) -> str:
    """What was encoded and how fast; reading and resizing count."""
    start = time.perf_counter()
    retriever.prepare_prototype()
    rows, channels = retriever.prototype_vecs.shape
    rate = rows / (time.perf_counter() - start)
    threads = counted(torch.get_num_threads(), "thread")
    return f"{name}: {image_size} px to {channels:,} numbers, {rate:.0f} images/s, {threads}"


def _look_up(
    image: Image.Image,
    name: str,
    retriever: ImageToImageRetriever,
    gallery: Gallery,
    facts: list[tuple[str, str]],
    show: Show,
) -> tuple[list[Finding], Page]:
    """The user's one image."""
    (sample,) = retriever.predict([fit(image, gallery.image_size)])
    rows, scores = sample.pred_label.tolist(), sample.pred_score.tolist()
    lines = [
        (f"{rank}  {gallery.views[row].label}", f"{score:.4f}")
        for rank, (row, score) in enumerate(zip(rows, scores, strict=True), 1)
    ]
    show("\n" + align([(f"   most like {name}", "cosine"), *lines]))
    page = Page(f"What is most like {name}", facts=facts)
    return [Finding(image, name, None, rows, scores)], page


def _demonstrate(
    options: Options,
    retriever: ImageToImageRetriever,
    gallery: Gallery,
    facts: list[tuple[str, str]],
    show: Show,
) -> tuple[list[Finding], Page]:
    """Queries with known sources, what came back, and the ways to search beside each other."""
    queries = trial.draw_queries(gallery, options.queries, options.seed)
    facts.append(("queries", f"{len(queries):,} of these images, each {DESCRIPTION}"))
    _show_fact(facts[-1], show)
    findings = list(trial.search(retriever, gallery, queries))
    recalls = trial.measure_recall(findings, gallery)
    header = ("found", "at rank 1", f"in the best {len(findings[0].rows)}", "by lot at rank 1")
    rows = [(r.what, share(r.first), share(r.any), share(r.chance)) for r in recalls]
    show("\n" + align([header, *rows]))
    show(fill(CEILING, WIDTH, initial_indent="  ", subsequent_indent="  "))
    comparisons = []
    for comparison in trial.compare_searches(
        retriever, gallery, findings, options.enlarged, options.seed
    ):
        comparisons.append(comparison)
        show(f"\n  {comparison.title}\n  {comparison.shape}")
        show(align(comparison_cells(comparison)))
    notes = [_method(comparisons)]
    show("\n" + fill(notes[0], WIDTH, initial_indent="  ", subsequent_indent="  "))
    return findings, _page(facts, recalls, comparisons, notes, len(findings))


def _method(comparisons: Sequence[Comparison]) -> str:
    rounds = " and ".join(str(comparison.rounds) for comparison in comparisons)
    threads = counted(torch.get_num_threads(), "thread")
    return (
        f"Time: median and fastest of {rounds} rounds in which all take turns, {threads}, each "
        "warm. The first three have prepared the gallery before, which is not timed; the others "
        "are given its vectors. Added memory: by how much resident memory rises at most during one "
        "call. As fp64: share of matches, and of their scores, equal to those of an fp64 search, "
        "rounded to fp32, rank by rank."
    )


def _page(
    facts: list[tuple[str, str]],
    recalls: Sequence[trial.Recall],
    comparisons: Sequence[Comparison],
    notes: list[str],
    count: int,
) -> Page:
    shown = f"{SHOWN_QUERIES} of the {count}" if count > SHOWN_QUERIES else f"All {count}"
    return Page(
        "flashmatch: distorted photographs, found again",
        figures=[(share(recall.first), f"{recall.what}, at rank 1") for recall in recalls],
        facts=facts,
        comparisons=comparisons,
        notes=notes,
        legend=f"{shown} queries, with the cosine similarity of each match. A solid green frame "
        f"is the very image the query was made from; where it is missing, it comes last. {CEILING}",
    )
