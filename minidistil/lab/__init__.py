"""The kernel lab: check a kernel against float64, time it, and measure its effect on a whole model.

Start with one operation: `add_norm.py`, `embed.py`, `linear.py`, `attention.py` and `block.py` each go from the
plain formula to the fastest implementation. `reference.py` is the float64 reference, `operations.py` lists the
test cases and tolerance of each operation, `gate.py` runs them, and `bench.py` times what passes.

No other package except the command line imports the lab. Pass an implementation to a model as `ops=`;
`fast(device)` returns the fastest operations.
"""

from .registry import Implementation, fast, find, implementation, implementations, load

__all__ = ["Implementation", "fast", "find", "implementation", "implementations", "load"]
