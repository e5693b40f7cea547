"""The door for a bank: prototypes prepared once, searched many times, added to and removed from."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .arrays.returned import in_kind_of
from .arrays.taken import AnyArray, as_mask, as_threshold, as_vectors
from .contract import arguments
from .contract.matches import Hits, Matches, RangeMatches, no_matches
from .contract.request import RangeRequest, Request
from .dispatch import workspace_bytes
from .explaining.explained import explained
from .explaining.explanation import Explanation
from .labels.asked import Asked, as_asked
from .labels.ranges import labelled_within_bank
from .labels.searches import best_of_bank
from .operators.range_scores import differentiable, refuse_transforms
from .operators.transforms import transformable_topk
from .self_join import SelfJoin
from .storage.prepared import Prepared
from .torch_backend.ranges.range_search import within_bank


class PrototypeBank(SelfJoin):
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
        prototypes: (M, C), float32, float16, bfloat16 or float64; M may be 0: a tensor, array,
            column of vectors or sequence of rows, as of ``flashmatch.topk``, or a sequence of such
            that are chunks of one set; or the path of an .npy or safetensors file, which is
            memory-mapped (the latter's tensor "prototypes", or its only matrix).
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

    def topk(
        self,
        queries: AnyArray,
        k: int,
        *,
        mask: AnyArray | None = None,
        same: tuple[AnyArray, AnyArray] | None = None,
        different: tuple[AnyArray, AnyArray] | None = None,
        allowed: tuple[Sequence[AnyArray], AnyArray] | None = None,
        groups: AnyArray | None = None,
        per_group: int | None = None,
    ) -> Matches:
        """The k most similar prototypes of each query, exactly: as ``flashmatch.topk``.

        Args:
            queries: (Q, C), any of the four dtypes, any strides, any device: a tensor, array,
                column or sequence of rows, as of ``flashmatch.topk``.
            k: matches per query, 0 <= k <= len(bank).
            mask: bool, (M,) or (Q, M) by position, of any kind; True = may match. A tensor is on
                the queries' device; others are brought there.
            same, different, allowed, groups, per_group: as of ``flashmatch.topk``, the prototypes'
                by position.

        Returns:
            ``Matches(scores, indices)`` on the queries' device, in their kind of array;
            ``bank.ids[indices]`` are the ids, a tensor. Scores of tensors are differentiable with
            respect to the queries.

        Raises:
            TypeError, ValueError, NotImplementedError: as of ``flashmatch.topk``.

        Time is O(Q M C); memory beyond inputs and outputs at most ``kernels.WORKSPACE_BYTES``.
        """
        state = self._state  # this one, whatever others make of the bank meanwhile
        collection, vectors = state.collection, state.collection.rows
        given, queries = queries, as_vectors("queries", queries)
        arguments.require_vectors("queries", queries)
        arguments.require_bank_channels("queries", queries, vectors.channels)
        k = arguments.require_k(k, len(collection))
        count = queries.shape[0]  # len() would fix what torch.export keeps open
        mask = as_mask(mask, queries.device)
        arguments.require_mask(mask, count, len(collection), queries.device)
        about = same, different, allowed, groups, per_group
        asked = as_asked([queries], len(collection), *about)
        if count == 0 or k == 0:
            return in_kind_of(given, no_matches(queries, k))
        if asked is not None:
            request = Request(k, state.coder.metric, mask, None, True)
            return in_kind_of(given, best_of_bank(state, queries, request, asked))
        device, bank = queries.device, state
        if torch.compiler.is_exporting():  # the program outlives this bank: it keeps the vectors
            bank, mask = None, collection.mask_by_row(mask)
            mask = mask if mask is None else mask.to(device)
        exclude = bank is not None or state.nonfinite == "exclude"  # a bank refuses by itself
        request = Request(k, state.coder.metric, mask, None, exclude)
        scores, rows = transformable_topk(queries, vectors.chunks, request, bank)
        positions = collection.positions(rows.to(collection.device)).to(device)
        return in_kind_of(given, Matches(scores, positions))

    def search(
        self,
        queries: AnyArray,
        k: int,
        *,
        mask: AnyArray | None = None,
        same: tuple[AnyArray, AnyArray] | None = None,
        different: tuple[AnyArray, AnyArray] | None = None,
        allowed: tuple[Sequence[AnyArray], AnyArray] | None = None,
        groups: AnyArray | None = None,
        per_group: int | None = None,
    ) -> Hits:
        """The ids of the k most similar prototypes of each query: as ``topk``, and of one state.

        Whatever others add and remove meanwhile, ids are those of the prototypes that were found.

        Args, errors and time are those of ``topk``.

        Returns:
            ``Hits(scores, ids)``, both (Q, k) and in the queries' kind of array: ids int64, -1
            where a mask leaves none; or an array of str, None where none.
        """
        view, vectors = self._as_it_is(), as_vectors("queries", queries)
        about = {"same": same, "different": different, "allowed": allowed, "groups": groups}
        scores, indices = view.topk(vectors, k, mask=mask, per_group=per_group, **about)
        return in_kind_of(queries, Hits(scores, view._state.collection.ids.at(indices)))

    def within(
        self,
        queries: AnyArray,
        threshold: float | AnyArray,
        *,
        mask: AnyArray | None = None,
        limit: int | None = None,
        sort: bool = True,
        same: tuple[AnyArray, AnyArray] | None = None,
        different: tuple[AnyArray, AnyArray] | None = None,
        allowed: tuple[Sequence[AnyArray], AnyArray] | None = None,
    ) -> RangeMatches:
        """All prototypes of each query whose score is at least ``threshold``: see
        ``flashmatch.within``.

        Args:
            queries, mask, same, different, allowed: as of ``topk``.
            threshold, limit, sort: as of ``flashmatch.within``.

        Returns:
            ``RangeMatches(offsets, indices, scores)`` on the queries' device and of their kind,
            indices by position. Scores are differentiable with respect to the queries.

        Raises:
            TypeError, ValueError, NotImplementedError: naming argument, expectation and value.
        """
        sort, state = arguments.require_bool("sort", sort), self._state
        given, queries = queries, as_vectors("queries", queries)
        request = self._range_request(state, queries, threshold, mask, limit)
        asked = as_asked([queries], len(state.collection), same, different, allowed)
        found = _found_within(state, queries, request, asked, sort)
        about = state.collection.rows.chunks, state.coder.metric, state.collection.rows_of
        return in_kind_of(given, differentiable(found, queries, *about))

    def count_within(
        self,
        queries: AnyArray,
        threshold: float | AnyArray,
        *,
        mask: AnyArray | None = None,
        same: tuple[AnyArray, AnyArray] | None = None,
        different: tuple[AnyArray, AnyArray] | None = None,
        allowed: tuple[Sequence[AnyArray], AnyArray] | None = None,
    ) -> Any:
        """How many prototypes each query has within ``threshold``: (Q,) int64, of its kind.

        Arguments and errors are those of ``within``; no pair is kept.
        """
        state = self._state
        given, queries = queries, as_vectors("queries", queries)
        request = self._range_request(state, queries, threshold, mask, None)
        asked = as_asked([queries], len(state.collection), same, different, allowed)
        request = replace(request, counts_only=True)
        found = _found_within(state, queries, request, asked, False)
        return in_kind_of(given, found.offsets.diff())

    def explain(self, queries: AnyArray, k: int, *, mask: AnyArray | None = None) -> Explanation:
        """What ``topk`` of these queries takes: survivors, bytes read, screens, time by stage.

        The search is done some 3 to 25 times, and not counted by ``stats``.

        Args:
            queries, k, mask: as of ``topk``; at least one query, and k >= 1.

        Returns:
            ``Explanation``; printed, a dozen lines.

        Raises:
            TypeError, ValueError: naming argument, expectation and value.
        """
        state, queries = self._state, as_vectors("queries", queries).detach()
        arguments.require_vectors("queries", queries)
        arguments.require_bank_channels("queries", queries, state.collection.rows.channels)
        if len(queries) == 0:
            raise ValueError("queries must be at least one, to explain a search; got none")
        k = arguments.require_int("k", k, least=1)
        k = arguments.require_k(k, len(state.collection))
        mask = as_mask(mask, queries.device)
        arguments.require_mask(mask, len(queries), len(state.collection), queries.device)
        return explained(state, queries, Request(k, state.coder.metric, mask, None, True))

    def _range_request(
        self,
        state: Prepared,
        queries: Tensor,
        threshold: float | AnyArray,
        mask: AnyArray | None,
        limit: int | None,
    ) -> RangeRequest:
        mask = as_mask(mask, queries.device)
        arguments.require_vectors("queries", queries)
        arguments.require_bank_channels("queries", queries, state.collection.rows.channels)
        arguments.require_mask(mask, len(queries), len(state.collection), queries.device)
        limit = arguments.require_limit(limit)
        least = arguments.require_threshold(as_threshold(threshold), len(queries), queries.device)
        refuse_transforms([queries])
        exclude = state.nonfinite == "exclude"
        return RangeRequest(1, state.coder.metric, mask, None, exclude, least, limit)


def _found_within(
    state: Prepared, queries: Tensor, request: RangeRequest, asked: Asked | None, sort: bool
) -> RangeMatches:
    if asked is not None:
        return labelled_within_bank(state, queries.detach(), request, asked, sort)
    return within_bank(state, queries.detach(), request, sort, workspace_bytes())
