"""Slice A's kernels, compiled before anything is launched: each once, in processes side by side.

No device is needed. Where Triton finds what was compiled is decided by a key, in 3.6 as in 3.9 the
SHA-256 of five parts (``triton.runtime.cache.get_cache_key``):

Triton       its version, and the contents of its Python files and of libtriton.so
source       module and name of the kernel, its text, the line it begins at, those of all it calls,
             the values of the constants it uses; types, constexprs and alignment of its arguments
compiler     the version that ptxas prints, and the architecture
options      warps, stages, registers and all others, among them whether products and sums are
             fused, what ptxas is told besides (PTXAS_OPTIONS), and the contents of libdevice
environment  name and value of what is set among the variables that change code, such as
             TRITON_DEFAULT_FP_FUSION, DISABLE_LLVM_OPT or TRITON_DISABLE_LINE_INFO: set them alike

No path, no driver, no device and not torch. A cache may thus travel to a machine with the same
wheel of Triton, but its index files hold absolute paths: ``gpu.kernel_cache`` writes them anew
where it arrives. Triton 3.6 has a launcher in C beside each kernel, keyed by its text and the
platform.
"""

from .pool import Compiled, compile_all
from .recording import Job
from .slice_a import jobs

__all__ = ["Compiled", "Job", "compile_all", "jobs"]
