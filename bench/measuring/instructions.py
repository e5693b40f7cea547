"""A process that may use fewer instructions than its processor has, as an older one would run it.

Libraries read these variables when they are loaded, so a limit needs a process of its own. What
has no variable keeps all its instructions: usearch, and what compilers did to scikit-learn.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Variable:
    name: str
    value: str
    limits: str  # the library


LIMITS = {
    "avx2": (
        Variable("ATEN_CPU_CAPABILITY", "avx2", "torch's own loops"),
        Variable("ONEDNN_MAX_CPU_ISA", "AVX2", "oneDNN: torch's products of int8, bf16 and fp16"),
        Variable("MKL_ENABLE_INSTRUCTIONS", "AVX2", "MKL: torch's products of fp32 and fp64"),
        Variable("FBGEMM_ENABLE_INSTRUCTIONS", "AVX2", "FBGEMM: torch's quantized products"),
        Variable("OPENBLAS_CORETYPE", "Haswell", "OpenBLAS: products of numpy, scipy and FAISS"),
        Variable("FAISS_OPT_LEVEL", "AVX2", "FAISS's own loops"),
    ),
}


def limited_to(environment: Mapping[str, str] = os.environ) -> str:
    """The limit of which every variable is set; nothing where there is none."""
    kept = (
        limit
        for limit, variables in LIMITS.items()
        if all(environment.get(v.name, "").lower() == v.value.lower() for v in variables)
    )
    return next(kept, "")


def rerun(limit: str) -> int:
    """This very command in a process that is limited; its exit status."""
    variables = {v.name: v.value for v in LIMITS[limit]}
    command = [sys.executable, *sys.orig_argv[1:]]
    return subprocess.run(command, env={**os.environ, **variables}).returncode
