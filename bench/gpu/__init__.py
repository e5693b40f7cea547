"""All there is to settle on a CUDA device, in parts, each of them a process."""
