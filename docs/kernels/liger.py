"""A kernel of Liger: `pip install liger-kernel`."""

from minidistil.lab import implementation


@implementation("add_norm", "liger", needs=("cuda",), gradients=True)
def add_norm(x, residual, weight, bias, eps):
    """An addition, then Liger's LayerNorm."""
    from liger_kernel.ops.layer_norm import LigerLayerNormFunction

    return LigerLayerNormFunction.apply(x + residual, weight, bias, eps)
