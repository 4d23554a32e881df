"""Element-wise, row-wise and column-wise primitives, dropout, optimiser steps: threads over runs of a leaf.

Runs have a fixed length, whatever the number of threads; sums over rows are taken run by run and then added
in order, so that they have the same bits for every number of threads.
"""

from cython.parallel cimport prange
from libc.math cimport isfinite, sqrt, sqrtf
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

cimport numpy as cnp

from ._runtime cimport (
    FC_ADD,
    FC_CLIPPED_RELU,
    FC_CLIPPED_RELU_BACKWARD,
    FC_GELU,
    FC_GELU_BACKWARD,
    FC_GELU_TANH,
    FC_GELU_TANH_BACKWARD,
    FC_HARD_SIGMOID,
    FC_HARD_SIGMOID_BACKWARD,
    FC_HARD_SWISH,
    FC_HARD_SWISH_BACKWARD,
    FC_LEAKY_RELU,
    FC_LEAKY_RELU_BACKWARD,
    FC_LOG_SOFTMAX,
    FC_LOG_SOFTMAX_BACKWARD,
    FC_RELU,
    FC_SIGMOID,
    FC_SIGMOID_BACKWARD,
    FC_SILU,
    FC_SILU_BACKWARD,
    FC_SOFTMAX,
    FC_SOFTMAX_BACKWARD,
    FC_TANH,
    FC_TANH_BACKWARD,
    acquire,
    ceil_div,
    fc_kernels,
    fc_norm,
    in_vectors,
    kernels,
    line,
    past_bytes,
    pixel_pitch,
    release,
    threads_for,
)

cnp.import_array()

RELU, CLIPPED_RELU, CLIPPED_RELU_BACKWARD = FC_RELU, FC_CLIPPED_RELU, FC_CLIPPED_RELU_BACKWARD
LEAKY_RELU, LEAKY_RELU_BACKWARD = FC_LEAKY_RELU, FC_LEAKY_RELU_BACKWARD
SIGMOID, SIGMOID_BACKWARD = FC_SIGMOID, FC_SIGMOID_BACKWARD
TANH, TANH_BACKWARD = FC_TANH, FC_TANH_BACKWARD
HARD_SIGMOID, HARD_SIGMOID_BACKWARD = FC_HARD_SIGMOID, FC_HARD_SIGMOID_BACKWARD
HARD_SWISH, HARD_SWISH_BACKWARD = FC_HARD_SWISH, FC_HARD_SWISH_BACKWARD
SILU, SILU_BACKWARD = FC_SILU, FC_SILU_BACKWARD
GELU, GELU_BACKWARD = FC_GELU, FC_GELU_BACKWARD
GELU_TANH, GELU_TANH_BACKWARD = FC_GELU_TANH, FC_GELU_TANH_BACKWARD
SOFTMAX, SOFTMAX_BACKWARD = FC_SOFTMAX, FC_SOFTMAX_BACKWARD
LOG_SOFTMAX, LOG_SOFTMAX_BACKWARD = FC_LOG_SOFTMAX, FC_LOG_SOFTMAX_BACKWARD
ADD = FC_ADD

cdef enum:
    RUN = 8192  # elements of a run: 32 KB of float32, so that a run's operands stay in L2
    # What the sums of all runs may take; and how many rows a run has that is summed, unless that leaves but so many
    # runs (moments of 784 rows of 2048 columns and the batch's normalisation, two threads of a Granite Rapids: 0.63 ms
    # with 4 rows, 0.46 with 32).
    SUM_BYTES = 1 << 22
    SUMMED_ROWS = 32
    FEWEST_RUNS = 16
    # Rows of less than so many vectors are taken side by side where they make no whole ones.
    NARROW = 4
    # What an element costs, in multiply-adds' time: memory traffic for the light ones, an exponential else.
    LIGHT = 8
    HEAVY = 40


cdef inline char *after(const char *start, Py_ssize_t step) noexcept nogil:
    """Return start + step, NULL where there is nothing."""
    return <char *> start if start == NULL else <char *> start + step


cdef inline bint has_exponential(int op) noexcept nogil:
    return op == FC_SIGMOID or op == FC_TANH or FC_SILU <= op < FC_ADD  # as they stand in kernels.h


def elementwise(int op, cnp.ndarray a, cnp.ndarray b, double alpha, cnp.ndarray out):
    """Write op(a, b) to out, which may be a or b; pass a for b where the op has one argument."""
    cdef const fc_kernels *table = kernels(out)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(out), size = cnp.PyArray_ITEMSIZE(out), i
    cdef const char *pa = cnp.PyArray_BYTES(a)
    cdef const char *pb = cnp.PyArray_BYTES(b)
    cdef char *po = cnp.PyArray_BYTES(out)
    cdef int threads = threads_for(<double> n * (HEAVY if has_exponential(op) else LIGHT))
    with nogil:
        for i in prange(ceil_div(n, RUN), num_threads=threads, schedule="static"):
            table.map[op](min(RUN, n - i * RUN), pa + i * RUN * size, pb + i * RUN * size, po + i * RUN * size, alpha)


def relu_backward(cnp.ndarray g, cnp.ndarray h, cnp.ndarray y, int relu, cnp.ndarray out):
    """Write a gradient of a relu's result y, or the sum of two unless h is None, before the relu, to a new array."""
    cdef const fc_kernels *table = kernels(out)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(out), step = RUN * cnp.PyArray_ITEMSIZE(out), i
    cdef const char *pg = cnp.PyArray_BYTES(g)
    cdef const char *ph = NULL if h is None else cnp.PyArray_BYTES(h)
    cdef const char *py = cnp.PyArray_BYTES(y)
    cdef char *po = cnp.PyArray_BYTES(out)
    cdef bint past = cnp.PyArray_NBYTES(out) > past_bytes and in_vectors(table, po, step)
    cdef int threads = threads_for(<double> n * LIGHT)
    with nogil:
        for i in prange(ceil_div(n, RUN), num_threads=threads, schedule="static"):
            table.relu_backward(min(RUN, n - i * RUN), pg + i * step, after(ph, i * step), py + i * step, relu, past,
                                po + i * step)


def rowwise(int op, cnp.ndarray a, cnp.ndarray b, cnp.ndarray out):
    """Write op(a, b) of each row, along the last axis, to out; pass a for b where the op has one argument."""
    cdef const fc_kernels *table = kernels(out)
    cdef Py_ssize_t n = cnp.PyArray_DIM(out, cnp.PyArray_NDIM(out) - 1), i
    cdef Py_ssize_t rows = cnp.PyArray_SIZE(out) // n if n else 0, row = n * cnp.PyArray_ITEMSIZE(out)
    cdef const char *pa = cnp.PyArray_BYTES(a)
    cdef const char *pb = cnp.PyArray_BYTES(b)
    cdef char *po = cnp.PyArray_BYTES(out)
    cdef int threads = threads_for(<double> rows * n * HEAVY)
    with nogil:
        for i in prange(rows, num_threads=threads, schedule="static"):
            table.row_map[op](n, pa + i * row, pb + i * row, po + i * row)


def softmax_cross_entropy(cnp.ndarray logits, cnp.ndarray targets, cnp.ndarray dlogits, cnp.ndarray losses):
    """Write each row's loss to losses and its gradient to dlogits; targets are probabilities per class."""
    cdef const fc_kernels *table = kernels(logits)
    cdef Py_ssize_t n = cnp.PyArray_DIM(logits, cnp.PyArray_NDIM(logits) - 1), i
    cdef Py_ssize_t rows = cnp.PyArray_SIZE(losses), row = n * cnp.PyArray_ITEMSIZE(logits)
    cdef const char *x = cnp.PyArray_BYTES(logits)
    cdef const char *t = cnp.PyArray_BYTES(targets)
    cdef char *dx = cnp.PyArray_BYTES(dlogits)
    cdef double *loss = <double *> cnp.PyArray_DATA(losses)
    cdef int threads = threads_for(<double> rows * n * HEAVY)
    with nogil:
        for i in prange(rows, num_threads=threads, schedule="static"):
            loss[i] = table.softmax_cross_entropy(n, x + i * row, t + i * row, dx + i * row)


def one_hot(cnp.ndarray numbers, cnp.ndarray out):
    """Write to every row of out a one at the column of that number, an int64, and zeros elsewhere.

    Returns which number is the first that is no column's; -1 where there is none.
    """
    cdef const int64_t *column = <const int64_t *> cnp.PyArray_DATA(numbers)
    cdef Py_ssize_t n = cnp.PyArray_DIM(out, cnp.PyArray_NDIM(out) - 1), i
    memset(cnp.PyArray_DATA(out), 0, cnp.PyArray_NBYTES(out))
    for i in range(cnp.PyArray_SIZE(numbers)):
        if not 0 <= column[i] < n:
            return i
        if cnp.PyArray_ITEMSIZE(out) == 4:
            (<float *> cnp.PyArray_DATA(out))[i * n + column[i]] = 1
        else:
            (<double *> cnp.PyArray_DATA(out))[i * n + column[i]] = 1
    return -1


# ---- rows against one value per column ----

cdef struct Rows:
    Py_ssize_t columns, line, rows, run, runs  # line: bytes of a row; run: rows that are worked on at once


cdef Rows rows_in_runs(Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t itemsize, Py_ssize_t sum_bytes) noexcept:
    """Cut rows into runs; where runs are summed, into no more than have room for a line each in so many bytes."""
    cdef Rows r
    r.columns = columns
    r.line = columns * itemsize
    r.rows = rows
    r.run = max(1, RUN // columns) if columns else 1
    if sum_bytes:
        r.run = max(r.run, ceil_div(rows * r.line, sum_bytes), min(SUMMED_ROWS, ceil_div(rows, FEWEST_RUNS)))
    r.runs = ceil_div(rows, r.run)
    return r


cdef Rows rows_of(cnp.ndarray x, cnp.ndarray channels, Py_ssize_t sum_bytes=0) noexcept:
    cdef Py_ssize_t columns = cnp.PyArray_SIZE(channels)
    return rows_in_runs(cnp.PyArray_SIZE(x) // columns if columns else 0, columns, cnp.PyArray_ITEMSIZE(x), sum_bytes)


cdef inline Py_ssize_t rows_in(const Rows *r, Py_ssize_t run) noexcept nogil:
    return min(r.run, r.rows - run * r.run)


cdef inline int threads_of(const Rows *r) noexcept nogil:
    return threads_for(<double> r.rows * r.columns * LIGHT)


def column_sum(cnp.ndarray x, cnp.ndarray out):
    """Write the sum over all but the last axis to out."""
    cdef const fc_kernels *table = kernels(out)
    cdef Rows r = rows_of(x, out, SUM_BYTES)
    cdef Py_ssize_t i, step = r.run * r.line
    cdef const char *px = cnp.PyArray_BYTES(x)
    cdef char *po = cnp.PyArray_BYTES(out)
    cdef char *sums = acquire(r.runs * r.line + 1)
    with nogil:
        for i in prange(r.runs, num_threads=threads_of(&r), schedule="static"):
            sum_lines(table, rows_in(&r, i), r.columns, px + i * step, sums + i * r.line)
        sum_lines(table, r.runs, r.columns, sums, po)
    release(sums)


def bias_add(cnp.ndarray x, cnp.ndarray bias, int relu, cnp.ndarray y):
    """Write act(x + bias) to y, which may be x."""
    cdef const fc_kernels *table = kernels(y)
    cdef Rows r = rows_of(y, bias)
    cdef Py_ssize_t i, step = r.run * r.line
    cdef const char *px = cnp.PyArray_BYTES(x)
    cdef const char *pb = cnp.PyArray_BYTES(bias)
    cdef char *py = cnp.PyArray_BYTES(y)
    with nogil:
        for i in prange(r.runs, num_threads=threads_of(&r), schedule="static"):
            table.bias_add(rows_in(&r, i), r.columns, px + i * step, pb, relu, py + i * step)


# ---- normalisation: y = act((x - mean) * scale + offset), mean, scale and offset per column ----

cdef fc_norm rows_of_result(tuple normalized) except *:
    """Return what makes rows of a result, of what `normalize` takes: x, mean, scale, offset and relu."""
    cdef cnp.ndarray x, mean, scale, offset
    cdef fc_norm t
    memset(&t, 0, sizeof(t))
    x, mean, scale, offset, t.relu = normalized
    t.columns = cnp.PyArray_SIZE(mean)
    t.x = cnp.PyArray_BYTES(x)
    t.mean = cnp.PyArray_BYTES(mean)
    t.scale = cnp.PyArray_BYTES(scale)
    t.offset = cnp.PyArray_BYTES(offset)
    return t


cdef fc_norm rows_of_gradient(tuple normalized) except *:
    """Return what makes rows of a gradient, of what `normalize_backward` takes, but for its dx."""
    cdef cnp.ndarray grad, grad_mean, slope
    cdef fc_norm t = rows_of_result(normalized[1:6])
    grad, grad_mean, slope = normalized[0], normalized[6], normalized[7]
    t.g = cnp.PyArray_BYTES(grad)
    t.g_mean = cnp.PyArray_BYTES(grad_mean)
    t.slope = cnp.PyArray_BYTES(slope)
    return t


cdef struct Norm:
    # The array's rows, `copies` of them side by side where one makes no whole vectors, and as many copies of what there
    # is of each column; what is then left, `rest` rows of the array, is a run of its own.
    fc_norm t
    Rows r
    Py_ssize_t columns, copies, rest
    char *scratch


cdef Py_ssize_t copies_of(Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t lanes) noexcept:
    cdef Py_ssize_t copies = 1
    if columns < NARROW * lanes:
        while copies * columns % lanes:
            copies += 1
    return copies if copies <= rows else 1


cdef Norm norm_of(cnp.ndarray x, cnp.ndarray channels, Py_ssize_t lines, bint summed) except *:
    """Return the rows of x, with scratch for so many lines of columns and, if they are summed, two lines for each run.
    """
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(x), rows, line_bytes, sum_bytes
    cdef Norm n
    memset(&n, 0, sizeof(n))
    n.columns = cnp.PyArray_SIZE(channels)
    rows = cnp.PyArray_SIZE(x) // n.columns if n.columns else 0
    n.copies = copies_of(rows, n.columns, kernels(x).lanes) if cnp.PyArray_IS_C_CONTIGUOUS(x) else 1
    n.rest = rows % n.copies
    n.r = rows_in_runs(rows // n.copies, n.copies * n.columns, size, SUM_BYTES if summed else 0)
    n.t.columns = n.r.columns
    n.t.x = cnp.PyArray_BYTES(x)
    if not cnp.PyArray_IS_C_CONTIGUOUS(x):
        n.t.x_gap = pixel_pitch(x) - n.columns * size
    line_bytes = lines * line(n.r.line)
    sum_bytes = n.r.runs * n.r.line + n.columns * size if summed else 0
    n.scratch = acquire(line_bytes + 2 * sum_bytes + 1)
    if summed:
        n.t.total = n.scratch + line_bytes
        n.t.dot = n.t.total + sum_bytes
    return n


cdef const char *side_by_side(const Norm *n, Py_ssize_t index, cnp.ndarray values) noexcept:
    """Copy a value for each column to a line of scratch, as often as there are columns side by side."""
    cdef Py_ssize_t nbytes = cnp.PyArray_NBYTES(values), i
    cdef char *to = n.scratch + index * line(n.r.line)
    for i in range(n.copies):
        memcpy(to + i * nbytes, cnp.PyArray_DATA(values), nbytes)
    return to


cdef Norm normalization(cnp.ndarray x, cnp.ndarray mean, cnp.ndarray scale, cnp.ndarray offset, int relu,
                        bint summed=False) except *:
    cdef Norm n = norm_of(x, mean, 5, summed)
    n.t.mean = side_by_side(&n, 0, mean)
    n.t.scale = side_by_side(&n, 1, scale)
    n.t.offset = side_by_side(&n, 2, offset)
    n.t.relu = relu
    return n


cdef bint goes_past(const Norm *n, const fc_kernels *table, const char *y) noexcept:
    """Whether the result is written past the caches."""
    return n.r.rows * n.r.line > past_bytes and in_vectors(table, y, n.r.line)


cdef inline Py_ssize_t runs_of(const Norm *n) noexcept nogil:
    return n.r.runs + (n.rest > 0)


cdef fc_norm run_of(const Norm *n, Py_ssize_t run) noexcept nogil:
    """A run of the rows, or, behind the last one, what is left."""
    cdef fc_norm t = n.t
    cdef Py_ssize_t first = min(run * n.r.run, n.r.rows), step = first * n.r.line
    t.rows = rows_in(&n.r, run)
    if run == n.r.runs:
        t.rows = n.rest
        t.columns = n.columns
        t.past = False
    t.x += step + first * t.x_gap
    t.residual = after(t.residual, step)
    t.g = after(t.g, step)
    t.y = after(t.y, step)
    t.total = after(t.total, run * n.r.line)
    t.dot = after(t.dot, run * n.r.line)
    return t


cdef void map_runs(const Norm *n, norm_leaf *leaf) noexcept:
    cdef Py_ssize_t i
    cdef fc_norm t
    with nogil:
        for i in prange(runs_of(n), num_threads=threads_of(&n.r), schedule="static"):
            t = run_of(n, i)
            leaf(&t)


cdef void sum_runs(const Norm *n, norm_leaf *leaf, const fc_kernels *table, char *total, char *dot) noexcept:
    """Write the sums over all rows of the array."""
    cdef Py_ssize_t lines = n.r.runs * n.copies + (n.rest > 0), i
    cdef fc_norm t
    with nogil:
        for i in prange(runs_of(n), num_threads=threads_of(&n.r), schedule="static"):
            t = run_of(n, i)
            memset(t.total, 0, t.columns * table.itemsize)
            memset(t.dot, 0, t.columns * table.itemsize)
            leaf(&t)
        sum_lines(table, lines, n.columns, n.t.total, total)
        sum_lines(table, lines, n.columns, n.t.dot, dot)


cdef inline double read(const fc_kernels *table, const char *x, Py_ssize_t i) noexcept nogil:
    return (<const float *> x)[i] if table.itemsize == 4 else (<const double *> x)[i]


cdef inline void write(const fc_kernels *table, char *x, Py_ssize_t i, double value) noexcept nogil:
    if table.itemsize == 4:
        (<float *> x)[i] = <float> value
    else:
        (<double *> x)[i] = value


cdef void choose_centre(const fc_kernels *table, Py_ssize_t rows, Py_ssize_t columns, const char *x,
                        char *centre) noexcept nogil:
    """The mean of some rows that lie evenly apart."""
    cdef Py_ssize_t samples = min(rows, SAMPLES), row = columns * table.itemsize, step = rows // samples * row, i, j
    cdef double sum
    memset(centre, 0, row)
    for i in range(samples):
        table.column_sum(1, columns, x + i * step, centre)
    for j in range(columns):
        sum = read(table, centre, j)
        if not isfinite(sum):  # of float32 it may still fit into a double
            sum = 0
            for i in range(samples):
                sum += read(table, x + i * step, j)
        write(table, centre, j, sum / samples)


cdef inline double join_moments(Py_ssize_t rows, double sum, double squares, double *mean) noexcept nogil:
    """Return the variance from sums about a centre, to which the mean's distance is added."""
    cdef double distance = sum / rows, variance = squares / rows - distance * distance
    mean[0] += distance
    return 0 if variance < 0 else variance


cdef void write_moments(const fc_kernels *table, Py_ssize_t rows, Py_ssize_t columns, const char *sum, char *mean,
                        char *variance) noexcept nogil:
    """Turn a centre into the mean, and sums of squares about it into the variance."""
    cdef Py_ssize_t i
    cdef double m
    for i in range(columns):
        m = read(table, mean, i)
        write(table, variance, i, join_moments(rows, read(table, sum, i), read(table, variance, i), &m))
        write(table, mean, i, m)


def moments(cnp.ndarray x, cnp.ndarray mean, cnp.ndarray variance):
    """Write mean and variance over all but the last axis; there is at least one row.

    The sums of values and of squares are about a centre near the mean, so that they don't cancel: the shifted data of
    Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983.
    """
    cdef const fc_kernels *table = kernels(x)
    cdef Norm n = norm_of(x, mean, 2, True)
    cdef Py_ssize_t rows = n.r.rows * n.copies + n.rest
    cdef char *pm = cnp.PyArray_BYTES(mean)
    cdef char *pv = cnp.PyArray_BYTES(variance)
    cdef char *sum = n.scratch + line(n.r.line)
    choose_centre(table, rows, n.columns, n.t.x, pm)
    n.t.mean = side_by_side(&n, 0, mean)
    sum_runs(&n, table.normalize_moments, table, sum, pv)
    write_moments(table, rows, n.columns, sum, pm, pv)
    release(n.scratch)


def inverse_deviation(cnp.ndarray variance, double epsilon):
    """Return 1 / sqrt(variance + epsilon), of a vector of its own type; None where a sum is not positive."""
    cdef cnp.ndarray out = cnp.PyArray_EMPTY(1, cnp.PyArray_DIMS(variance), cnp.PyArray_TYPE(variance), 0)
    cdef Py_ssize_t i
    cdef const float *v32 = <const float *> cnp.PyArray_DATA(variance)
    cdef const double *v64 = <const double *> cnp.PyArray_DATA(variance)
    cdef float *y32 = <float *> cnp.PyArray_DATA(out)
    cdef double *y64 = <double *> cnp.PyArray_DATA(out)
    for i in range(cnp.PyArray_SIZE(variance)):
        if cnp.PyArray_TYPE(variance) == cnp.NPY_FLOAT32:
            if v32[i] + <float> epsilon <= 0:
                return None
            y32[i] = 1 / sqrtf(v32[i] + <float> epsilon)
        else:
            if v64[i] + epsilon <= 0:
                return None
            y64[i] = 1 / sqrt(v64[i] + epsilon)
    return out


def normalize(cnp.ndarray x, cnp.ndarray mean, cnp.ndarray scale, cnp.ndarray offset, cnp.ndarray residual, int relu,
              cnp.ndarray y):
    """Write the result, with a residual or None for none added before the activation, to y; x may be some channels of
    images."""
    cdef const fc_kernels *table = kernels(x)
    cdef Norm n = normalization(x, mean, scale, offset, relu)
    n.t.y = cnp.PyArray_BYTES(y)
    n.t.past = goes_past(&n, table, n.t.y)
    if residual is not None:
        n.t.residual = cnp.PyArray_BYTES(residual)
    map_runs(&n, table.normalize)
    release(n.scratch)


def normalize_sums(cnp.ndarray dy, cnp.ndarray x, cnp.ndarray mean, cnp.ndarray scale, cnp.ndarray offset, int relu,
                   cnp.ndarray total, cnp.ndarray dot):
    """Write the sums of g and of g * (x - mean), where g is dy before the activation."""
    cdef const fc_kernels *table = kernels(x)
    cdef Norm n = normalization(x, mean, scale, offset, relu, True)
    n.t.g = cnp.PyArray_BYTES(dy)
    sum_runs(&n, table.normalize_sums, table, cnp.PyArray_BYTES(total), cnp.PyArray_BYTES(dot))
    release(n.scratch)


def normalize_backward(cnp.ndarray dy, cnp.ndarray x, cnp.ndarray mean, cnp.ndarray scale, cnp.ndarray offset,
                       int relu, cnp.ndarray g_mean, cnp.ndarray slope, cnp.ndarray dx):
    """Write scale * (g - g_mean - (x - mean) * slope) to dx, where g is dy before the activation."""
    cdef const fc_kernels *table = kernels(x)
    cdef Norm n = normalization(x, mean, scale, offset, relu)
    n.t.g = cnp.PyArray_BYTES(dy)
    n.t.g_mean = side_by_side(&n, 3, g_mean)
    n.t.slope = side_by_side(&n, 4, slope)
    n.t.y = cnp.PyArray_BYTES(dx)
    n.t.past = goes_past(&n, table, n.t.y)
    map_runs(&n, table.normalize_backward)
    release(n.scratch)


def layer_normalize(cnp.ndarray x, cnp.ndarray scale, cnp.ndarray offset, double epsilon, cnp.ndarray y):
    """Write each row, normalised by its own mean and variance, times scale plus offset to y."""
    cdef const fc_kernels *table = kernels(x)
    cdef Rows r = rows_of(x, scale)
    cdef Py_ssize_t i, step = r.run * r.line
    cdef const char *px = cnp.PyArray_BYTES(x)
    cdef const char *ps = cnp.PyArray_BYTES(scale)
    cdef const char *po = cnp.PyArray_BYTES(offset)
    cdef char *py = cnp.PyArray_BYTES(y)
    with nogil:
        for i in prange(r.runs, num_threads=threads_of(&r), schedule="static"):
            table.layer_normalize(rows_in(&r, i), r.columns, px + i * step, ps, po, epsilon, py + i * step)


def layer_normalize_backward(cnp.ndarray dy, cnp.ndarray x, cnp.ndarray scale, double epsilon, cnp.ndarray dx,
                             cnp.ndarray dscale):
    """Write the gradients of rows that were normalised and of scale."""
    cdef const fc_kernels *table = kernels(x)
    cdef Rows r = rows_of(x, scale, SUM_BYTES)
    cdef Py_ssize_t i, step = r.run * r.line
    cdef const char *pg = cnp.PyArray_BYTES(dy)
    cdef const char *px = cnp.PyArray_BYTES(x)
    cdef const char *ps = cnp.PyArray_BYTES(scale)
    cdef char *pdx = cnp.PyArray_BYTES(dx)
    cdef char *pds = cnp.PyArray_BYTES(dscale)
    cdef char *sums = acquire(r.runs * r.line + 1)
    with nogil:
        memset(sums, 0, r.runs * r.line)
        for i in prange(r.runs, num_threads=threads_of(&r), schedule="static"):
            table.layer_normalize_backward(rows_in(&r, i), r.columns, pg + i * step, px + i * step, ps, epsilon,
                                           pdx + i * step, sums + i * r.line)
        sum_lines(table, r.runs, r.columns, sums, pds)
    release(sums)


# ---- dropout ----

def dropout(cnp.ndarray x, uint64_t seed, uint32_t threshold, double scale, cnp.ndarray y):
    """Write x * scale to y where the element's random word is at least threshold, else zero."""
    cdef const fc_kernels *table = kernels(y)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(y), size = cnp.PyArray_ITEMSIZE(y), i
    cdef const char *px = cnp.PyArray_BYTES(x)
    cdef char *py = cnp.PyArray_BYTES(y)
    cdef int threads = threads_for(<double> n * HEAVY)
    with nogil:
        for i in prange(ceil_div(n, RUN), num_threads=threads, schedule="static"):
            table.dropout(min(RUN, n - i * RUN), px + i * RUN * size, seed, i * RUN, threshold, scale,
                          py + i * RUN * size)


# ---- optimiser steps over all parameters at once ----

cdef struct Run:
    const fc_kernels *table
    Py_ssize_t n
    char *p
    char *g
    char *m
    char *v


cdef char *start_of(list arrays, Py_ssize_t i):
    """Return where array i begins, NULL for an empty list."""
    cdef cnp.ndarray array
    if not arrays:
        return NULL
    array = arrays[i]
    return cnp.PyArray_BYTES(array)


cdef Py_ssize_t list_runs(list params, list grads, list m, list v, Run *runs) except -1:
    """Cut every parameter into runs; m and v may be empty. Return how many there are, and fill runs if given."""
    cdef Py_ssize_t total = 0, i, j, n, step
    cdef const fc_kernels *table
    cdef Run first
    cdef cnp.ndarray p
    for i in range(len(params)):
        p = params[i]
        n = cnp.PyArray_SIZE(p)
        if runs != NULL:
            table = kernels(p)
            first = Run(table, n, start_of(params, i), start_of(grads, i), start_of(m, i), start_of(v, i))
            for j in range(ceil_div(n, RUN)):
                step = j * RUN * cnp.PyArray_ITEMSIZE(p)
                runs[total + j] = Run(table, min(RUN, n - j * RUN), first.p + step, first.g + step,
                                      after(first.m, step), after(first.v, step))
        total += ceil_div(n, RUN)
    return total


def sgd(list params, list grads, list momenta, double rate, double momentum, bint nesterov, double decay):
    """Update params and momenta in place; momenta is empty where momentum is 0. Types differ from param to param."""
    cdef Py_ssize_t count = list_runs(params, grads, [], momenta, NULL), i
    cdef Run *runs
    cdef int threads = threads_for(<double> count * RUN * LIGHT)
    if not count:
        return
    runs = <Run *> acquire(count * sizeof(Run))
    list_runs(params, grads, [], momenta, runs)
    with nogil:
        for i in prange(count, num_threads=threads, schedule="static"):
            runs[i].table.sgd(runs[i].n, runs[i].p, runs[i].g, runs[i].v, rate, momentum, nesterov, decay)
    release(<char *> runs)


def adam(list params, list grads, list m, list v, double alpha, double beta_1, double beta_2, double epsilon,
         double rate_decay):
    """Update params and both moments in place. Types differ from param to param."""
    cdef Py_ssize_t count = list_runs(params, grads, m, v, NULL), i
    cdef Run *runs
    cdef int threads = threads_for(<double> count * RUN * LIGHT)
    if not count:
        return
    runs = <Run *> acquire(count * sizeof(Run))
    list_runs(params, grads, m, v, runs)
    with nogil:
        for i in prange(count, num_threads=threads, schedule="static"):
            runs[i].table.adam(runs[i].n, runs[i].p, runs[i].g, runs[i].m, runs[i].v, alpha, beta_1, beta_2, epsilon,
                               rate_decay)
    release(<char *> runs)
