"""Functions of the distance: envelope, place in the tables, and radial functions."""


@triton.jit
def place_in_table(distance, INTERVALS: tl.constexpr):
    """Interval, place in it from 0 to 1, and slope of the place, 1/A."""
    per_length: tl.constexpr = INTERVALS / (CUTOFF - TABLE_START)
    place = (distance - TABLE_START) * per_length
    steps = tl.where(place > 0.0, 1.0, 0.0).to(distance.dtype) * per_length
    place = tl.maximum(place, 0.0)
    interval = tl.minimum(tl.maximum(place.to(tl.int32), 0), INTERVALS - 1)
    return interval, place - interval.to(distance.dtype), steps


@triton.jit
def envelope_of(distance):
    """u(r) and du/dr."""
    x = distance * (1.0 / CUTOFF)
    cube = x * x * x
    rest = tl.maximum(1.0 - cube * x, 0.0)
    return rest * rest * rest, (-12.0 / CUTOFF) * cube * rest * rest


@triton.jit
def radial(row, t):
    """psi(r) [edges, channels] at ``t`` [edges, 1] of an interval of the table."""
    value = tl.load(row + 5 * FUNCTIONS)
    for k in tl.static_range(4, -1, -1):
        value = tl.load(row + k * FUNCTIONS) + t * value
    return value


@triton.jit
def radial_and_slope(row, t):
    """The same, and its slope by t."""
    value = tl.load(row + 5 * FUNCTIONS)
    slope = value * 0.0
    for k in tl.static_range(4, -1, -1):
        slope = value + t * slope
        value = tl.load(row + k * FUNCTIONS) + t * value
    return value, slope
