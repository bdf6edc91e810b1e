"""Channels of keys (or values) as the columns of a block, head by head.

Each head has a power of two of columns; those left over repeat the first channel, and
what meets them is zero.
"""


@triton.jit
def columns_of(WIDE: tl.constexpr, HEADS_2: tl.constexpr, OF_HEAD_2: tl.constexpr):
    """Channel and head of each column, and whether it is one."""
    of_head: tl.constexpr = WIDE // HEADS
    column = tl.arange(0, HEADS_2 * OF_HEAD_2)
    head = column // OF_HEAD_2
    if HEADS_2 * OF_HEAD_2 == WIDE:  # known to lie side by side, and to need no mask
        return column, head, tl.full((WIDE,), 1, tl.int1)
    channel = column % OF_HEAD_2
    real = (head < HEADS) & (channel < of_head)
    return tl.where(real, head * of_head + channel, 0), head, real


# What the heads have of each edge is a tuple of blocks [edges]: unlike a block [edges,
# heads] it stays with the threads that have the channels of the edge.
@triton.jit
def sum_heads(values, head):
    """Sums over the channels of each head."""
    sums = ()
    for h in tl.static_range(HEADS):
        sums = sums + (tl.sum(tl.where(head == h, values, 0.0), axis=1),)
    return sums


@triton.jit
def spread_heads(values, head):
    """Give every channel [edges, channels] the value of its head."""
    wide = values[0][:, None]
    for h in tl.static_range(1, HEADS):
        wide = tl.where(head == h, values[h][:, None], wide)
    return wide
