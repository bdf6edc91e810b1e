"""Components of features as tuples of blocks [edges, channels]."""


@triton.jit
def load_rows(pointer, stride, COUNT: tl.constexpr, mask):
    """Components [COUNT] that lie ``stride`` apart."""
    rows = ()
    for d in tl.static_range(COUNT):
        rows = rows + (tl.load(pointer + d * stride, mask=mask, other=0.0),)
    return rows


@triton.jit
def load_all(pointer, stride, COUNT: tl.constexpr):
    """The same without a mask."""
    rows = ()
    for d in tl.static_range(COUNT):
        rows = rows + (tl.load(pointer + d * stride),)
    return rows


@triton.jit
def zero_rows(like, COUNT: tl.constexpr):
    rows = ()
    for _ in tl.static_range(COUNT):
        rows = rows + (like * 0.0,)
    return rows


@triton.jit
def scaled_rows(rows, factor, COUNT: tl.constexpr):
    result = ()
    for d in tl.static_range(COUNT):
        result = result + (rows[d] * factor,)
    return result


@triton.jit
def added_rows(sums, rows, COUNT: tl.constexpr):
    result = ()
    for d in tl.static_range(COUNT):
        result = result + (sums[d] + rows[d],)
    return result


@triton.jit
def added_products(sums, rows, factor, COUNT: tl.constexpr):
    result = ()
    for d in tl.static_range(COUNT):
        result = result + (sums[d] + factor * rows[d],)
    return result


@triton.jit
def dot_rows(left, right, COUNT: tl.constexpr):
    """Sum over components [edges, channels]."""
    total = left[0] * right[0]
    for d in tl.static_range(1, COUNT):
        total += left[d] * right[d]
    return total


@triton.jit
def store_sums(pointer, stride, rows, COUNT: tl.constexpr, mask):
    """Store the sums over the edges of a block."""
    for d in tl.static_range(COUNT):
        tl.store(pointer + d * stride, tl.sum(rows[d], axis=0), mask=mask)
