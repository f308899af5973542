"""FlashAttention on a packed batch: `pip install flash-attn`."""

from minidistil.lab import implementation


@implementation("attention", "flash-attn", needs=("cuda",), dtypes=("bfloat16", "float16"), gradients=True)
def attention(q, k, v, queries, keys, dropout_p=0.0):
    """One call of FlashAttention with the cu_seqlens of the batch."""
    from flash_attn import flash_attn_varlen_func

    lengths = queries.cu_seqlens, keys.cu_seqlens, queries.max_seqlen, keys.max_seqlen
    return flash_attn_varlen_func(q, k, v, *lengths, dropout_p=dropout_p)
