"""The demo's page: one HTML file that needs nothing but itself."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from string import Template
from tempfile import TemporaryFile

from PIL import Image

from ...kernels.files.whole_file import whole_file
from ..gallery.views import Gallery
from .compare import Comparison
from .table import comparison_cells

THUMBNAIL_SIDE = 160
THUMBNAIL_QUALITY = 80


@dataclass(frozen=True)
class Finding:
    """A query and its matches, best first."""

    image: Image.Image
    caption: str
    source: int | None
    """The row of the gallery it was made from; None for an image from elsewhere."""
    rows: Sequence[int]
    scores: Sequence[float]


@dataclass(frozen=True)
class Page:
    """What the page says above its images."""

    title: str
    facts: Sequence[tuple[str, str]]
    figures: Sequence[tuple[str, str]] = ()
    """Large numbers, and what each is."""
    comparisons: Sequence[Comparison] = ()
    notes: Sequence[str] = ()
    legend: str = ""


def write_page(path: Path, page: Page, findings: Iterable[Finding], gallery: Gallery) -> None:
    """Write ``page`` and ``findings`` to ``path``, images included; the folder is made.

    Raises:
        OSError, ValueError: as ``whole_file``, and nothing is left that was not there.
    """
    html = _PAGE.substitute(
        title=escape(page.title),
        figures="".join(
            f"<div><b>{escape(value)}</b><span>{escape(what)}</span></div>"
            for value, what in page.figures
        ),
        facts="".join(
            f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in page.facts
        ),
        comparisons="".join(map(_comparison, page.comparisons)),
        notes="".join(f"<p>{escape(note)}</p>" for note in page.notes),
        legend=f"<h2>Queries and their matches</h2><p>{escape(page.legend)}</p>"
        if page.legend
        else "",
        findings="".join(_finding(finding, gallery) for finding in findings),
    )
    new = _missing(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write(html.encode())
    except BaseException:
        _remove(new)
        raise


def try_folder(folder: Path, name: str) -> None:
    """That a file ``name`` can be written to ``folder``, made if need be; nothing is left of it.

    Raises:
        OSError, ValueError: it cannot.
    """
    new = _missing(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
        if (folder / name).exists() and not (folder / name).is_file():
            raise ValueError(f"its {name} is no regular file")
    finally:
        _remove(new)


def _missing(folder: Path) -> list[Path]:
    """What is to be made so that ``folder`` exists, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _remove(folders: Sequence[Path]) -> None:
    for path in folders:
        with suppress(OSError):  # it was never made, or somebody uses it by now
            path.rmdir()


def _comparison(comparison: Comparison) -> str:
    header, *rows = comparison_cells(comparison)
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return (
        f"<h2>{escape(comparison.title)}</h2><p>{escape(comparison.shape)}</p>"
        f"<div class=wide><table><tr>{head}</tr>{body}</table></div>"
    )


def _finding(finding: Finding, gallery: Gallery) -> str:
    """The query, its matches, and the source where they lack it."""
    cells = [_figure(finding.image, "query", finding.caption, "query")]
    for rank, (row, score) in enumerate(zip(finding.rows, finding.scores, strict=True), 1):
        cells.append(
            _figure(
                gallery.image(row),
                f"{rank} · {score:.4f}",
                gallery.views[row].label,
                "source" if row == finding.source else "",
            )
        )
    if finding.source is not None and finding.source not in finding.rows:
        label = gallery.views[finding.source].label
        cells.append(_figure(gallery.image(finding.source), "source, not found", label, "missed"))
    return f"<section>{''.join(cells)}</section>"


def _figure(image: Image.Image, head: str, caption: str, kind: str) -> str:
    return (
        f'<figure class="{kind}"><img src="{_data_url(image)}" alt="{escape(caption)}">'
        f"<figcaption><b>{escape(head)}</b>{escape(caption)}</figcaption></figure>"
    )


def _data_url(image: Image.Image) -> str:
    small = image.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    small.save(buffer, "JPEG", quality=THUMBNAIL_QUALITY)
    return f"data:image/jpeg;base64,{b64encode(buffer.getvalue()).decode()}"


_PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { --page: #fbfbfa; --card: #fff; --ink: #1c1e21; --soft: #63686f; --line: #e2e3e5;
        --found: #1a7f4b; --missed: #b4541a; }
@media (prefers-color-scheme: dark) {
  :root { --page: #15171a; --card: #1e2125; --ink: #e8e9eb; --soft: #9aa0a8; --line: #33373d;
          --found: #4cc38a; --missed: #e8935a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 76rem; background: var(--page);
       color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 1.25rem; }
h2 { font-size: 1.05rem; margin: 2rem 0 0; }
p { margin: .2rem 0 .6rem; max-width: 60rem; color: var(--soft); }
.figures { display: flex; flex-wrap: wrap; gap: .75rem; }
.figures div { flex: 1 1 11rem; padding: .8rem 1rem; background: var(--card);
               border: 1px solid var(--line); border-radius: .6rem; }
.figures b { display: block; font-size: 1.7rem; font-variant-numeric: tabular-nums; }
.figures span { color: var(--soft); font-size: .85rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.25rem;
     margin: 1.5rem 0; }
dt { color: var(--soft); }
dd { margin: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin-bottom: .8rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem 2rem .35rem 0; border-bottom: 1px solid var(--line); text-align: right;
         white-space: pre; }
th { color: var(--soft); font-weight: normal; }
th:first-child, td:first-child { text-align: left; }
tr:nth-child(2) td { font-weight: 600; }
section { display: grid; gap: .75rem; padding: 1rem 0; border-top: 1px solid var(--line);
          grid-template-columns: repeat(auto-fill, minmax(8.6rem, 1fr)); }
figure { margin: 0; min-width: 0; }
img { display: block; width: 100%; height: 8.2rem; object-fit: contain; padding: 4px;
      background: var(--card); border: 2px solid var(--line); border-radius: .5rem; }
.query img { border-style: dashed; border-color: var(--soft); }
.source img { border: 4px solid var(--found); padding: 2px; }
.missed img { border: 3px dashed var(--missed); padding: 3px; }
figcaption { margin-top: .3rem; font-size: .78rem; line-height: 1.35; color: var(--soft);
             overflow-wrap: anywhere; }
figcaption b { display: block; color: var(--ink); font-variant-numeric: tabular-nums; }
.source b { color: var(--found); }
.missed b { color: var(--missed); }
</style>
<h1>$title</h1>
<div class="figures">$figures</div>
<dl>$facts</dl>
$comparisons
$notes
$legend
$findings
</html>
""")
