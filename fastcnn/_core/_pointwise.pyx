"""1x1 convolutions between batch normalisations, in training: made on the way what they take, measured what they give.

The result of a normalisation is then never written: a block of pixels of it is made where the product reads it, in L2.
While the tiles of one block run, the next one is brought near. The moments of the product's result, which the next
normalisation needs, are added up while its rows are near, in parts whose number depends on nothing but the sizes.

Their gradients are in ``_conv``; depthwise convolutions do the same in ``_depthwise``.
"""

from cython.parallel cimport parallel, prange
from libc.string cimport memcpy, memset

cimport numpy as cnp

from ._conv cimport Geometry
from ._elementwise cimport SAMPLES, add_sums, choose_centre, rows_of_result, sum_lines, write_moments
from ._gemm cimport Ahead, add_stretch, multiply_panels, pack_panels, panel_steps, panel_width, share_out
from ._runtime cimport (
    Shares, acquire, ceil_div, fc_kernels, fc_norm, in_vectors, kernels, l2_bytes, l3_is_far, line, past_bytes, release,
    share, take, threads_for_flops,
)

cnp.import_array()

cdef enum:
    # Parts of the pixels, whose moments are added up by themselves.
    PARTS = 32
    # Pixels of a block, at most and at least.
    MOST_PIXELS = 256
    LEAST_PIXELS = 64
    # Of so many channels there is arithmetic enough beside what is written, so that a copy costs more than it saves,
    # where L3 is near. (Where it is far, on two threads of a Granite Rapids, 128-512 filters of 8 images of 28x28 took
    # 2.9 ms, with a copy 2.55, 64-256 of 56x56 3.05 and 2.9.)
    PAST_CHANNELS = 64


cdef struct Pointwise:
    const fc_kernels *table
    Py_ssize_t pixels, channels, filters, block
    # The input's pixels, or, where they are made, what they are made of.
    bint makes
    fc_norm x
    const char *packed
    Py_ssize_t width
    # Whether the result is made near, and copied past the caches when it is measured.
    bint past
    char *y
    # About a centre; the lines of the first part.
    fc_norm moments


cdef void multiply(const Pointwise *p, const char *x, Py_ssize_t pixels, char *y, char *made,
                   Ahead *next) noexcept nogil:
    """Compute some pixels of the result from those of the input at x."""
    cdef fc_norm t = p.x
    if p.makes:
        t.rows = pixels
        t.x = x
        t.y = made
        p.table.normalize(&t)
        x = made
    multiply_panels(p.table, x, pixels, p.packed, p.channels, p.filters, p.width, y, next)


cdef void run_part(const Pointwise *p, Py_ssize_t part, char *scratch) noexcept nogil:
    """Compute a part of the pixels, block by block, and their moments."""
    cdef Py_ssize_t first = p.pixels * part // PARTS, end = p.pixels * (part + 1) // PARTS, pixels, left
    cdef Py_ssize_t x_pixel = p.channels * p.table.itemsize, y_pixel = p.filters * p.table.itemsize
    cdef char *sums = scratch + line(p.block * x_pixel)
    cdef const char *x
    cdef char *y
    cdef fc_norm t
    cdef Ahead next
    while first < end:
        pixels = ceil_div(end - first, ceil_div(end - first, p.block))
        left = min(p.block, p.pixels - first - pixels)
        x = p.x.x + first * x_pixel
        t = p.moments
        t.y = p.y + first * y_pixel
        t.past = p.past
        y = sums + line(2 * y_pixel) if p.past else t.y
        next.stretches = 0
        if left > 0:
            add_stretch(&next, x + pixels * x_pixel, left * x_pixel)
            share_out(&next, panel_steps(p.table, pixels, p.channels, p.filters, p.width))
        multiply(p, x, pixels, y, scratch, &next)
        t.rows = pixels
        t.x = y
        add_sums(p.table, p.table.normalize_moments, t, part, sums)
        first += pixels


cdef void find_centre(const Pointwise *p, char *centre, char *scratch) noexcept nogil:
    """Write the means of some pixels of the result that lie evenly apart."""
    cdef Py_ssize_t x_pixel = p.channels * p.table.itemsize, samples = min(p.pixels, SAMPLES), i
    cdef char *made = scratch + SAMPLES * x_pixel
    cdef char *y = made + SAMPLES * x_pixel
    cdef Ahead nothing
    nothing.stretches = 0
    for i in range(samples):
        memcpy(scratch + i * x_pixel, p.x.x + i * (p.pixels // samples) * x_pixel, x_pixel)
    multiply(p, scratch, samples, y, made, &nothing)
    choose_centre(p.table, samples, p.filters, y, centre)


def forward_measured(Geometry g, cnp.ndarray x, tuple made, cnp.ndarray w, cnp.ndarray y, cnp.ndarray mean,
                     cnp.ndarray variance):
    """Write the product of the input and filters to y, and its moments to mean and variance. The input is x, or `made`
    as `rows_of_result` takes it, of x."""
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(x), i, task, x_pixel = g.channels * size, y_pixel = g.filters * size
    cdef Py_ssize_t packed_bytes, own_bytes, nbytes = PARTS * y_pixel
    cdef int threads = threads_for_flops(kernels(x), g.flops())
    cdef Shares shares
    cdef Pointwise p
    cdef char *scratch
    cdef char *own
    cdef char *sum
    cdef char *pm = cnp.PyArray_BYTES(mean)
    cdef char *pv = cnp.PyArray_BYTES(variance)
    p.table = kernels(x)
    p.pixels, p.channels, p.filters = g.images * g.out_h * g.out_w, g.channels, g.filters
    p.makes = made is not None
    if p.makes:
        p.x = rows_of_result(made)
    p.x.x = cnp.PyArray_BYTES(x)
    p.y = cnp.PyArray_BYTES(y)
    p.width = panel_width(p.table, g.filters, g.channels)
    p.block = max(LEAST_PIXELS, min(MOST_PIXELS, l2_bytes // 4 // (x_pixel + y_pixel)))
    p.past = (p.pixels * y_pixel > past_bytes and (l3_is_far or p.channels < PAST_CHANNELS)
              and in_vectors(p.table, p.y, y_pixel))
    packed_bytes = line(ceil_div(g.filters, p.width) * p.width * x_pixel)
    # Of a block, or of what the centre is found from.
    own_bytes = line(p.block * x_pixel) + line(2 * y_pixel) + (line(p.block * y_pixel) if p.past else 0)
    own_bytes = max(own_bytes, line(SAMPLES * (2 * x_pixel + y_pixel)))
    scratch = acquire(packed_bytes + 2 * nbytes + line(y_pixel) + threads * own_bytes)
    p.packed = scratch
    pack_panels(p.table, cnp.PyArray_BYTES(w), y_pixel, False, g.channels, g.filters, p.width, scratch)
    memset(&p.moments, 0, sizeof(p.moments))
    p.moments.columns = g.filters
    p.moments.mean = pm
    p.moments.total = scratch + packed_bytes
    p.moments.dot = p.moments.total + nbytes
    sum = p.moments.dot + nbytes
    own = sum + line(y_pixel)
    share(&shares, PARTS, threads)
    with nogil:
        find_centre(&p, pm, own)
        memset(p.moments.total, 0, 2 * nbytes)
        with parallel(num_threads=threads):
            for i in prange(threads, schedule="static", chunksize=1):
                task = take(&shares, i)
                while task >= 0:
                    run_part(&p, task, own + i * own_bytes)
                    task = take(&shares, i)
        sum_lines(p.table, PARTS, g.filters, p.moments.total, sum)
        sum_lines(p.table, PARTS, g.filters, p.moments.dot, pv)
        write_moments(p.table, p.pixels, g.filters, sum, pm, pv)
    release(scratch)
