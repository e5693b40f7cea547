"""The door for a bank: prototypes prepared once, searched many times, added to and removed from."""

import torch
from torch import Tensor

from .bank_contents import BankContents
from .contract import arguments
from .contract.matches import Hits, Matches, no_matches
from .contract.request import Request
from .operators.transforms import transformable_topk


class PrototypeBank(BankContents):
    """Prototypes prepared for exact search at int8 speed.

    Results are those of ``flashmatch.topk`` on the same rows, bit for bit. Preparing takes one byte
    per coordinate (without VNNI widths are padded, to whole 512s) and about 16 per row; the vectors
    are referred to, not copied, and must not be changed meanwhile. They may lie elsewhere than the
    codes, in host memory or a memory-mapped file: a search reads few more than k of them per query.

    Threads may search while others add and remove: every search is that of one state of the bank,
    between its start and its end, and waits for nobody; changes exclude one another, and what fails
    or is interrupted changes nothing. ``copy.copy(bank)`` is a bank of its own that shares memory
    with this one: a view that others' changes do not reach, to map positions to ids by, for
    instance. A forked or spawned process has a bank of its own, too. On CUDA all this holds in the
    order of streams: a search waits for a change on another stream only where the caller makes it.

    Args:
        prototypes: (M, C) tensor, a sequence of such that are chunks of one set, or the path of a
            safetensors file, which is memory-mapped (its tensor "prototypes", or its only matrix).
            float32, float16, bfloat16 or float64; M may be 0.
        metric: ``"cosine"``, ``"dot"`` or ``"l2"``, as of ``flashmatch.topk``.
        ids: (M,) unique ids: non-negative integers, or strings, in a tensor, an array, a column of
            a frame or a sequence; None = 0, 1, 2, .... All of a bank are of one kind.
        device: where codes lie and searches run; None = where the prototypes are.
        screen: ``"int8"`` searches codes, ``"float"`` the vectors, as ``topk`` does; ``"auto"``
            takes int8 where the device multiplies such matrices fast.
        nonfinite: ``"raise"`` refuses vectors with NaN, inf or a norm beyond fp64; ``"exclude"``
            keeps such a prototype but never returns it, and gives such a query -inf and -1.
        progress: show a bar while preparing; None = in a terminal or a notebook, if it takes long.

    Preparing reads every vector once, O(M C), and holds 64 MiB or so at a time beside the codes.

    Raises:
        TypeError, ValueError, FileNotFoundError: naming argument, expectation and value.
    """

    def topk(self, queries: Tensor, k: int, *, mask: Tensor | None = None) -> Matches:
        """The k most similar prototypes of each query, exactly: as ``flashmatch.topk``.

        Args:
            queries: (Q, C), any of the four dtypes, any strides, any device.
            k: matches per query, 0 <= k <= len(bank).
            mask: bool, (M,) or (Q, M) by position, on the queries' device; True = may match.

        Returns:
            ``Matches(scores, indices)`` on the queries' device; ``bank.ids[indices]`` are the ids.
            Scores are differentiable with respect to the queries.

        Raises:
            TypeError, ValueError: naming argument, expectation and value.

        Time is O(Q M C); memory beyond inputs and outputs at most ``kernels.WORKSPACE_BYTES``.
        """
        state = self._state  # this one, whatever others make of the bank meanwhile
        collection, vectors = state.collection, state.collection.rows
        arguments.require_vectors("queries", queries)
        arguments.require_bank_channels("queries", queries, vectors.channels)
        k = arguments.require_k(k, len(collection))
        count = queries.shape[0]  # len() would fix what torch.export keeps open
        arguments.require_mask(mask, count, len(collection), queries.device)
        if count == 0 or k == 0:
            return no_matches(queries, k)
        device, bank = queries.device, state
        if torch.compiler.is_exporting():  # the program outlives this bank: it keeps the vectors
            bank, mask = None, collection.mask_by_row(mask)
            mask = mask if mask is None else mask.to(device)
        exclude = bank is not None or state.nonfinite == "exclude"  # a bank refuses by itself
        request = Request(k, state.coder.metric, mask, None, exclude)
        scores, rows = transformable_topk(queries, vectors.chunks, request, bank)
        return Matches(scores, collection.positions(rows.to(collection.device)).to(device))

    def search(self, queries: Tensor, k: int, *, mask: Tensor | None = None) -> Hits:
        """The ids of the k most similar prototypes of each query: as ``topk``, and of one state.

        Whatever others add and remove meanwhile, ids are those of the prototypes that were found.

        Args, errors and time are those of ``topk``.

        Returns:
            ``Hits(scores, ids)``, both (Q, k): ids int64 on the queries' device, -1 where a mask
            leaves none; or an array of str, None where none.
        """
        view = self._as_it_is()
        scores, indices = view.topk(queries, k, mask=mask)
        return Hits(scores, view._state.collection.ids.at(indices))
