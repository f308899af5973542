"""Matmul operations of a model are counted."""

from __future__ import annotations

import torch

from minidistil import Batch, DistilBertConfig
from minidistil.benchmarks.workload import matmul_flops
from support.twins import twins


def test_the_operations_of_one_layer_counted_by_hand():
    """Two tokens, and a head that reads one: qkv for both, two attention scores and sums, the rest for one."""
    config = DistilBertConfig(n_layers=1, dim=4, hidden_dim=8, n_heads=1)
    qkv, scores_and_sums, out, ffn, head = 3 * 2 * 2 * 16, 2 * (2 * 4 * 2), 2 * 16, 2 * (2 * 32), 2 * 4 * (4 + 2)
    assert matmul_flops(config, [2]) == qkv + scores_and_sums + out + ffn + head


def test_the_counted_operations_match_torch():
    from torch.utils.flop_counter import FlopCounterMode

    mine, _ = twins()
    lengths = [17, 5, 128, 128]
    batch = Batch.from_lists([[1] * length for length in lengths])
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        mine(batch)
    matmuls = sum(count for op, count in counter.get_flop_counts()["Global"].items() if "mm" in str(op))
    width, heads = mine.config.dim, mine.config.n_layers - 1
    attend = heads * 4 * width * sum(n * n for n in lengths) + 4 * width * sum(lengths)
    assert matmul_flops(mine.config, lengths) == matmuls + attend
