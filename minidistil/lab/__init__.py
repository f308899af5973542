"""The kernel lab: is a kernel correct, is it fast, and what does it do to a real model?

Start with a module of implementations, from the formula to the fastest: `add_norm.py`, `embed.py`, `linear.py`,
`attention.py`, `block.py`. `reference.py` computes what they are compared with, in float64. `operations.py` lists
the cases and the tolerance of each operation, `gate.py` checks them, and `bench.py` times what passes. Only the
command line imports this package: implementations are passed to a model as `ops=`, and `fast(device)` returns the
fastest.
"""

from .registry import Implementation, fast, find, implementation, implementations, load

__all__ = ["Implementation", "fast", "find", "implementation", "implementations", "load"]
