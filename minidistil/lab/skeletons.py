"""Files to start a kernel from: an implementation of each operation that passes the check."""

from __future__ import annotations

import inspect
from pathlib import Path

from .. import ops
from ..errors import InputError
from .registry import OPERATIONS

HEAD = '''"""{title}: check it with `minidistil lab check {file} --quick`."""

import torch
import torch.nn.functional as F

from minidistil import ops as plain
from minidistil.lab import implementation


@implementation("{op}", "mine", gradients=True)
def {op}({signature}):
    """{about}"""
    {body}
'''
BODIES = {
    "embed": (
        "x = word[ids] + position[position_ids]  # (T, D)",
        "return F.layer_norm(x, weight.shape, weight, bias, eps)",
    ),
    "qkv": ("return F.linear(x, q_lin.weight, q_lin.bias), k_lin(x), v_lin(x)  # each (T, D)",),
    "linear": ("return F.linear(x, lin.weight, lin.bias)  # (T, N)",),
    "linear_gelu": ("return F.gelu(F.linear(x, lin.weight, lin.bias))  # (T, N)",),
    "add_norm": ("return F.layer_norm(x + residual, weight.shape, weight, bias, eps)  # (T, D)",),
    "attention": (
        "outputs = [q[:0]]",
        "parts = zip(q.split(queries.lengths), k.split(keys.lengths), v.split(keys.lengths), strict=True)",
        "for one in parts:  # of one sequence, each (L, H, d)",
        "    heads = (x.transpose(0, 1) for x in one)",
        "    outputs.append(F.scaled_dot_product_attention(*heads, dropout_p=dropout_p).transpose(0, 1))",
        "return torch.cat(outputs)  # (Tq, H, d)",
    ),
    "feed_forward": ("return F.linear(F.gelu(lin1(x)), lin2.weight, lin2.bias)  # (T, D)",),
    "block": ("return plain.block(x, module, layout=layout, queries=queries, ops=ops)  # (Tq, D)",),
}


def write_skeleton(op: str, path: str | None = None) -> str:
    """Write a file with an implementation of an operation, and return its path. Raises InputError if it exists."""
    if op not in OPERATIONS:
        raise InputError(f"unknown operation {op!r}: expected one of {', '.join(OPERATIONS)}")
    path = f"my_{op}.py" if path is None else path
    if not path.endswith(".py") or Path(path).exists():
        raise InputError(f"cannot write {path}: expected the name of a new file that ends in .py")
    parameters = inspect.signature(getattr(ops, op)).parameters.values()
    names = [str(x.replace(annotation=inspect.Parameter.empty)) for x in parameters]
    if keywords := [x.name for x in parameters if x.kind is x.KEYWORD_ONLY]:
        names.insert(names.index(keywords[0]), "*")
    about = (inspect.getdoc(getattr(ops, op)) or "").split("\n")[0]
    text = HEAD.format(
        title=f"An implementation of {op}",
        file=Path(path).name,
        op=op,
        signature=", ".join(names),
        about=about,
        body="\n    ".join(BODIES[op]),
    )
    lines = [line for line in text.split("\n") if "torch" not in line or _used(line, BODIES[op])]
    Path(path).write_text("\n".join(lines), encoding="utf-8")
    return path


def _used(line: str, body: tuple[str, ...]) -> bool:
    """Return whether an import line is needed by the body."""
    text = "\n".join(body)
    name = {"import torch": "torch.", "import torch.nn.functional as F": "F."}.get(line)
    return name is None or name in text
