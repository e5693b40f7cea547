"""Problems as a bank would hand them to a backend: finite rows coded, the others closed."""

import torch
from torch import Tensor

from flashmatch.kernels.codes.frame import fitted_frame
from flashmatch.kernels.codes.layout import Layout
from flashmatch.kernels.codes.pages import Codes
from flashmatch.kernels.contract.finite import norms
from flashmatch.kernels.storage.clean_rows import screen_norms


def coded(prototypes: list[Tensor], metric: str, layout: Layout) -> Codes:
    """Codes of all rows, of which those that are not finite are unmatchable."""
    whole = torch.cat(prototypes)
    is_finite = norms(whole).isfinite()
    whole = whole.where(is_finite[:, None], 0)
    sample = whole[:: max(1, len(whole) // 2048)]  # as a bank takes one: sets may be of gigabytes
    codes = Codes(fitted_frame(sample, metric), layout, len(whole), whole.shape[1])
    codes.write(0, whole, screen_norms(whole))
    close(codes, is_finite)
    return codes


def close(codes: Codes, present: Tensor) -> None:
    codes.close(torch.arange(codes.pages, device=present.device), present)
