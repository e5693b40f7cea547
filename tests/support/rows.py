"""Ledger rows that nobody measured."""

from dataclasses import replace

from measuring.ledger import Row

ROW = Row(
    provider="faiss IndexFlat",
    version="1.0",
    Q=64,
    M=131072,
    C=128,
    k=10,
    metric="cosine",
    dtype="float32",
    median_ms=10.0,
    p25=9.0,
    p75=12.0,
    repeats=5,
    peak_mib=3.0,
    agreement=1.0,
    checked=64,
    limit_ms=5.0,
    over_limit=2.0,
    device="Abacus (1 threads)",
    torch="2.0",
    triton="unknown",
    commit="abcdef",
    date="2026-01-01T00:00Z",
    status="ok",
)


def row(provider: str, median_ms: float | None = 10.0, spread: float = 0.0, **fields) -> Row:
    """The row of a provider whose quartiles lie ``spread`` to either side of its median."""
    low = high = None
    if median_ms is not None:
        low, high = median_ms - spread, median_ms + spread
    return replace(ROW, provider=provider, median_ms=median_ms, p25=low, p75=high, **fields)
