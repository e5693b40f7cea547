"""Damaged images beside good ones: read, or listed as unreadable in one line; nothing else.

A PIL image of a damaged file has the pixels that the file has, if it has any.
"""

import random
import resource
import struct
import time
import warnings
import zlib
from collections import Counter
from pathlib import Path

from pictures import originals, picture

from flashmatch.retriever.gallery import photographs_in
from flashmatch.retriever.images import UnreadableImage, open_image, read_image

GOOD = ("a good.png", "z good.jpg")
LONGEST_SECONDS = 30.0  # of a processor, which others may share
MOST_BYTES = 4 << 30  # what Pillow lets through holds 179 million pixels, and a grey needs 8 bytes
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
EXTREMES = (0, 1, 2, 5, 8, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1)


def run(amount: int, seed: int, folder: Path) -> Counter[str]:
    chosen, outcomes = random.Random(seed), Counter[str]()
    add_neighbours(folder)
    for _ in range(amount):
        name = chosen.choice(list(originals()))
        path = folder / f"damaged{Path(name).suffix}"
        path.write_bytes(damaged(name, chosen))
        with warnings.catch_warnings():
            warnings.simplefilter(chosen.choice(("ignore", "error")))
            outcomes[outcome(path)] += 1
        path.unlink()
    return outcomes


def add_neighbours(folder: Path) -> None:
    for name in GOOD:
        picture("RGB").save(folder / name)


def outcome(path: Path) -> str:
    """What becomes of ``path``, in a folder of it and the neighbours alone."""
    began, memory = time.process_time(), _peak()
    try:
        photographs = photographs_in(path.parent)
    except Exception as error:
        return f"ESCAPED: {type(error).__name__} with {path.suffix}"
    if time.process_time() - began > LONGEST_SECONDS:
        return f"WRONG: {path.suffix} took {time.process_time() - began:.0f} s"
    if _peak() - memory > MOST_BYTES:
        return f"WRONG: {path.suffix} took {(_peak() - memory) / 2**30:.0f} GiB"
    names = [photograph.name for photograph in photographs.found]
    if not set(names) >= set(GOOD):
        return "LOST: a good neighbour"
    if path.name in names:
        return "read" if _is_same(path) else f"WRONG: {path.suffix} differs from its PIL image"
    return "unreadable" if _is_said(path.name, photographs.skipped) else "WRONG: nothing is said"


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _is_said(name: str, skipped: list[str]) -> bool:
    return (
        len(skipped) == 1
        and skipped[0].startswith(f"{name}: ")
        and len(skipped[0]) > len(name) + 4
        and skipped[0].isprintable()
    )


def _is_same(path: Path) -> bool:
    image = read_image(path)
    try:
        with open_image(path) as opened:
            again = read_image(opened)
    except UnreadableImage:
        return False
    return image.mode == "RGB" and image.size == again.size and image.tobytes() == again.tobytes()


def damaged(name: str, chosen: random.Random) -> bytes:
    content = bytearray(originals()[name])
    for _ in range(chosen.choice((1, 1, 1, 2, 5))):
        content = chosen.choice(DAMAGES)(content, chosen) or bytearray(1)
    if content.startswith(PNG_MAGIC) and chosen.random() < 0.7:
        _mend_checksums(content)
    return bytes(content)


def _place(content: bytearray, chosen: random.Random) -> int:
    """Anywhere, or where headers are: most of it at the front, TIFF's directory at the end."""
    length = len(content)
    start = chosen.choice((0, 0, max(0, length - 300), 0))
    stop = chosen.choice((min(200, length), length, length))
    return chosen.randrange(min(start, stop - 1), stop)


def _flip(content: bytearray, chosen: random.Random) -> bytearray:
    content[_place(content, chosen)] ^= 1 << chosen.randrange(8)
    return content


def _set_byte(content: bytearray, chosen: random.Random) -> bytearray:
    content[_place(content, chosen)] = chosen.choice((0, 1, 5, 127, 128, 255))
    return content


def _set_number(content: bytearray, chosen: random.Random) -> bytearray:
    """Two or four bytes of a width, a count or an offset."""
    size = chosen.choice((2, 4))
    order = chosen.choice(("little", "big"))
    number = chosen.choice(EXTREMES) & ((1 << 8 * size) - 1)
    at = _place(content, chosen)
    content[at : at + size] = number.to_bytes(size, order)
    return content


def _scatter(content: bytearray, chosen: random.Random) -> bytearray:
    for _ in range(chosen.randint(2, 60)):
        content[chosen.randrange(len(content))] = chosen.randrange(256)
    return content


def _exchange(content: bytearray, chosen: random.Random) -> bytearray:
    a, b, length = _place(content, chosen), _place(content, chosen), chosen.choice((1, 4, 12, 64))
    content[a : a + length], content[b : b + length] = (
        content[b : b + length],
        content[a : a + length],
    )
    return content


def _remove(content: bytearray, chosen: random.Random) -> bytearray:
    at = _place(content, chosen)
    del content[at : at + chosen.choice((1, 2, 8, 100))]
    return content


def _cut(content: bytearray, chosen: random.Random) -> bytearray:
    return content[: chosen.randrange(len(content))]


def _insert(content: bytearray, chosen: random.Random) -> bytearray:
    at = chosen.choice((len(content), _place(content, chosen)))
    return content[:at] + chosen.randbytes(chosen.choice((1, 8, 1000))) + content[at:]


def _graft(content: bytearray, chosen: random.Random) -> bytearray:
    """The rest of another file."""
    other = originals()[chosen.choice(list(originals()))]
    return content[: _place(content, chosen)] + other[chosen.randrange(len(other)) :]


OFTEN = (_flip, _set_byte, _set_number)
DAMAGES = (*OFTEN, *OFTEN, _scatter, _exchange, _remove, _cut, _insert, _graft)


def _mend_checksums(content: bytearray) -> None:
    """So that the damage reaches PNG's decoder."""
    at = len(PNG_MAGIC)
    while at + 12 <= len(content):
        length = struct.unpack_from(">I", content, at)[0]
        end = at + 8 + length
        if end + 4 > len(content):
            return
        struct.pack_into(">I", content, end, zlib.crc32(content[at + 4 : end]))
        at = end + 4
