"""The kernel lab: is a kernel right, is it fast, and what does it do to a real model?

Start with a page: `add_norm.py`, `embed.py`, `products.py`, `attention.py`, `whole.py`, from the formula to fast.
`truth.py` is what they are judged by, `cases.py` on which inputs, `gate.py` how; `registry.py` knows them by name.
Nothing but the command line imports this package: what it finds is handed to a model as `ops=`; `fast(device)` is
the fastest of it.
"""

from .registry import Implementation, fast, find, implementation, implementations, load

__all__ = ["Implementation", "fast", "find", "implementation", "implementations", "load"]
