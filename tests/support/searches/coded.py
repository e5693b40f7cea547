"""Problems as a bank would hand them to a body: finite rows coded, the others closed."""

import torch
from problems import Problem
from torch import Tensor

from flashmatch.kernels.codes.frame import fitted_frame
from flashmatch.kernels.codes.layout import Layout
from flashmatch.kernels.codes.pages import Codes
from flashmatch.kernels.contract.chunks import Rows
from flashmatch.kernels.contract.finite import norms
from flashmatch.kernels.storage.clean_rows import screen_norms


def coded(prototypes: list[Tensor], metric: str, layout: Layout) -> Codes:
    """Codes of all rows, of which those that are not finite never match."""
    whole = torch.cat(prototypes)
    is_finite = norms(whole).isfinite()
    whole = whole.where(is_finite[:, None], 0)
    codes = Codes(fitted_frame(whole, metric), layout, len(whole), whole.shape[1])
    codes.write(0, whole, screen_norms(whole))
    close(codes, is_finite)
    return codes


def close(codes: Codes, matchable: Tensor) -> None:
    codes.close(torch.arange(codes.pages, device=matchable.device), matchable)


def on(device: str, problem: Problem) -> tuple[Tensor, Rows, Tensor | None]:
    """Queries, prototypes and mask there."""
    mask = None if problem.mask is None else problem.mask.to(device)
    return problem.queries.to(device), Rows([p.to(device) for p in problem.prototypes]), mask
