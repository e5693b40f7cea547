"""An index as the bytes that FAISS has for it: a header, vectors in fp32, ids.

A header is a tag of four letters, d (int32), ntotal (int64), two numbers that FAISS writes as 2^20
and does not read (int64), whether it is trained (bool), and the metric (int32). An ``IndexFlat``
goes on with the count of its numbers (uint64) and these; an ``IndexIDMap`` with the index within,
the count of its ids and these; an ``IndexPreTransform`` with its transforms and the index within.

Where the bytes are from here, the two numbers of the first header are a mark and a checksum (crc32)
of all bytes, with 0 in its own place. FAISS reads such bytes, and bytes of FAISS's are read here.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from ...kernels.concurrency.succession import Succession
from .contents import Contents
from .flat import IndexFlat, IndexFlatIP, IndexFlatL2
from .id_map import IndexIDMap, IndexIDMap2
from .index import Index
from .metrics import METRIC_INNER_PRODUCT, METRIC_L2, METRICS, metric_title
from .pretransform import IndexPreTransform, NormalizationTransform
from .readers import PIECE_BYTES, IOReader, exactly, invalid
from .writers import IOWriter

FLAT = {METRIC_INNER_PRODUCT: IndexFlatIP, METRIC_L2: IndexFlatL2}
"""As which type an index comes back that was written."""

_HEADER = struct.Struct("<iqqq?i")
_CHECKSUM = slice(20, 28)
_UNUSED = (1 << 20, 1 << 20)
_MARK = int.from_bytes(b"flashmat", "little")
_TRANSFORMS = struct.Struct("<i4sfii?")
_COUNT = struct.Struct("<Q")
_FLAT_TAGS = {b"IxFI": METRIC_INNER_PRODUCT, b"IxF2": METRIC_L2, b"IxFl": None}
_ID_TAGS = {b"IxMp": IndexIDMap, b"IxM2": IndexIDMap2}
_TRANSFORM_TAG = b"IxPT"


def write(index: Index, writer: IOWriter) -> None:
    """Twice over the vectors, O(ntotal d), and no copy of them all."""
    contents, checksum = index._contents(), 0
    for part in _parts(index, contents, (_MARK, 0)):
        checksum = zlib.crc32(part, checksum)
    for part in _parts(index, contents, (_MARK, checksum)):
        writer.write_bytes(part)
    writer.flush()


def _parts(index: Index, contents: Contents, numbers: tuple[int, int]) -> Iterator[bytes]:
    header = _HEADER.pack(index.d, contents.count, *numbers, True, index.metric_type)
    if isinstance(index, IndexFlat):
        yield {metric: tag for tag, metric in _FLAT_TAGS.items()}[index.metric_type] + header
        yield _COUNT.pack(contents.count * index.d)
        for rows in contents.pieces(max(1, PIECE_BYTES // index.code_size)):
            yield rows.numpy().astype("<f4", copy=False).tobytes()
    elif isinstance(index, IndexIDMap):
        yield {kind: tag for tag, kind in _ID_TAGS.items()}[type(index)] + header
        yield from _parts(index.index, contents, _UNUSED)
        yield _COUNT.pack(contents.count)
        for ids in contents.ids:
            yield ids.astype("<i8", copy=False).tobytes()
    elif isinstance(index, IndexPreTransform):
        norm = index.transform.norm
        yield _TRANSFORM_TAG + header
        yield _TRANSFORMS.pack(1, b"VNrm", norm, index.d, index.d, True)
        yield from _parts(index.index, contents, _UNUSED)


def read(reader: IOReader, tag: bytes, argument: str, device: torch.device) -> Index:
    """The index whose ``tag`` the reader has given already.

    Memory is taken as bytes arrive, whatever sizes they announce.

    Raises:
        InvalidIndexError: naming ``argument``, and what is wrong.
    """
    return _Bytes(reader, argument, device).index(tag)


class _Bytes:
    def __init__(self, reader: IOReader, argument: str, device: torch.device) -> None:
        self.reader, self.argument, self.device = reader, argument, device
        self.checksum = 0

    def index(self, tag: bytes) -> Index:
        header = self._take(_HEADER.size)
        d, ntotal, mark, checksum, _, metric = _HEADER.unpack(header)
        if (mark, checksum) != _UNUSED and mark != _MARK:
            self.refuse("its header has changed")
        header[_CHECKSUM] = bytes(8)
        self.checksum = zlib.crc32(header, zlib.crc32(tag))
        index, contents = self._body(tag, (d, ntotal, metric), 0)
        if mark == _MARK and checksum != self.checksum:
            self.refuse("its bytes have changed")
        index._flat._states = Succession(contents)
        return index

    def _body(self, tag: bytes, about: tuple[int, int, int], depth: int) -> tuple[Index, Contents]:
        d, ntotal, metric = about
        if tag not in (*_FLAT_TAGS, *_ID_TAGS, _TRANSFORM_TAG) or depth > 2:
            self.refuse(
                "only flat indexes, with ids, or normalised, are here; "
                f"FAISS calls this one {tag.decode('ascii', 'replace')!r}"
            )
        if metric not in METRICS or _FLAT_TAGS.get(tag) not in (None, metric):
            self.refuse(f"it is by scalar product or L2; this one has {metric_title(metric)}")
        if d < 1 or ntotal < 0:
            self.refuse(f"its header says d = {d} and ntotal = {ntotal}")
        if tag in _FLAT_TAGS:
            return self._flat(tag, about)
        if tag == _TRANSFORM_TAG:
            self._normalization(d)
        index, contents = self._within(d, metric, depth + 1)
        if tag == _TRANSFORM_TAG:
            return self._made(IndexPreTransform, NormalizationTransform(d), index), contents
        ids = self._array("ids", np.dtype("<i8"), contents.count).astype(np.int64, copy=False)
        return self._made(_ID_TAGS[tag], index), Contents(added=contents.added, ids=(ids,))

    def _within(self, d: int, metric: int, depth: int) -> tuple[Index, Contents]:
        """Its ntotal counts: FAISS leaves that around it behind when the inner index is changed."""
        tag = bytes(self._take(4))
        d_here, ntotal, _, _, _, metric_here = _HEADER.unpack(self._take(_HEADER.size))
        if (d_here, metric_here) != (d, metric):
            self.refuse("its headers contradict one another")
        return self._body(tag, (d, ntotal, metric), depth)

    def _flat(self, tag: bytes, about: tuple[int, int, int]) -> tuple[Index, Contents]:
        d, ntotal, metric = about
        numbers = self._array("vectors", np.dtype("<f4"), ntotal * d)
        vectors = torch.from_numpy(numbers.astype(np.float32, copy=False)).view(ntotal, d)
        kind, typed = FLAT[metric], _FLAT_TAGS[tag] is not None
        index = kind(d, device=self.device) if typed else IndexFlat(d, metric, device=self.device)
        added: tuple[Tensor, ...] = (vectors.to(index.device),) if ntotal else ()
        return index, Contents(added=added)

    def _normalization(self, d: int) -> None:
        count, tag, norm, *widths, _ = _TRANSFORMS.unpack(self._take(_TRANSFORMS.size))
        if (count, tag, norm, widths) != (1, b"VNrm", 2.0, [d, d]):
            self.refuse(f"only one NormalizationTransform is here; it has {count}, of {tag!r}")

    def _made(self, kind: Callable[..., Index], *parts: object) -> Index:
        try:
            return kind(*parts)
        except TypeError as error:
            self.refuse(str(error))

    def _array(self, what: str, dtype: np.dtype, expected: int) -> np.ndarray:
        (count,) = _COUNT.unpack(self._take(_COUNT.size))
        if count != expected:
            self.refuse(f"its {what} are {count} numbers where {expected} should be")
        return np.frombuffer(self._take(count * dtype.itemsize), dtype=dtype)

    def _take(self, size: int) -> bytearray:
        taken = exactly(self.reader, size, self.argument)
        self.checksum = zlib.crc32(taken, self.checksum)
        return taken

    def refuse(self, what: str) -> NoReturn:
        raise invalid(self.reader, self.argument, what)
