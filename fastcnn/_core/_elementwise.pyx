"""Element-wise, row-wise and column-wise primitives, dropout, optimiser steps: threads over runs of a leaf.

Runs have a fixed length, whatever the number of threads; sums over rows are taken run by run and then added
in order, so that they have the same bits for every number of threads.
"""

from cython.parallel cimport prange
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

cimport numpy as cnp

from ._runtime cimport (
    FC_CENTRED_DOT,
    FC_CENTRED_SQUARE,
    FC_CLIPPED_RELU,
    FC_CLIPPED_RELU_BACKWARD,
    FC_LEAKY_RELU,
    FC_LEAKY_RELU_BACKWARD,
    FC_LOG_SOFTMAX,
    FC_LOG_SOFTMAX_BACKWARD,
    FC_RELU,
    FC_RELU_BACKWARD,
    FC_SIGMOID,
    FC_SIGMOID_BACKWARD,
    FC_SOFTMAX,
    FC_SOFTMAX_BACKWARD,
    FC_SUM,
    FC_TANH,
    FC_TANH_BACKWARD,
    acquire,
    ceil_div,
    fc_kernels,
    kernels,
    release,
    threads_for,
)

cnp.import_array()

RELU, RELU_BACKWARD = FC_RELU, FC_RELU_BACKWARD
CLIPPED_RELU, CLIPPED_RELU_BACKWARD = FC_CLIPPED_RELU, FC_CLIPPED_RELU_BACKWARD
LEAKY_RELU, LEAKY_RELU_BACKWARD = FC_LEAKY_RELU, FC_LEAKY_RELU_BACKWARD
SIGMOID, SIGMOID_BACKWARD = FC_SIGMOID, FC_SIGMOID_BACKWARD
TANH, TANH_BACKWARD = FC_TANH, FC_TANH_BACKWARD
SOFTMAX, SOFTMAX_BACKWARD = FC_SOFTMAX, FC_SOFTMAX_BACKWARD
LOG_SOFTMAX, LOG_SOFTMAX_BACKWARD = FC_LOG_SOFTMAX, FC_LOG_SOFTMAX_BACKWARD
SUM, CENTRED_SQUARE, CENTRED_DOT = FC_SUM, FC_CENTRED_SQUARE, FC_CENTRED_DOT

cdef enum:
    RUN = 8192  # elements of a run: 32 KB of float32, so that a run's operands stay in L2
    SUM_BYTES = 1 << 22
    # What an element costs, in multiply-adds' time: memory traffic for the light ones, an exponential else.
    LIGHT = 8
    HEAVY = 40


def elementwise(int op, cnp.ndarray a, cnp.ndarray b, double alpha, cnp.ndarray out):
    """Write op(a, b) to out, which may be a or b; pass a for b where the op has one argument."""
    cdef const fc_kernels *table = kernels(out)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(out), size = cnp.PyArray_ITEMSIZE(out), i
    cdef const char *pa = cnp.PyArray_BYTES(a)
    cdef const char *pb = cnp.PyArray_BYTES(b)
    cdef char *po = cnp.PyArray_BYTES(out)
    cdef int threads = threads_for(<double> n * (HEAVY if op == FC_SIGMOID or op == FC_TANH else LIGHT))
    with nogil:
        for i in prange(ceil_div(n, RUN), num_threads=threads, schedule="static"):
            table.map[op](min(RUN, n - i * RUN), pa + i * RUN * size, pb + i * RUN * size, po + i * RUN * size, alpha)


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


# ---- rows against one value per column ----

cdef inline Py_ssize_t rows_per_run(Py_ssize_t columns) noexcept nogil:
    return max(1, RUN // columns) if columns else 1


def column_sum(int op, cnp.ndarray x, cnp.ndarray y, cnp.ndarray centre, cnp.ndarray out):
    """Write the sum of op over all but the last axis to out; pass x for y and centre where the op has none."""
    cdef const fc_kernels *table = kernels(out)
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(out), columns = cnp.PyArray_SIZE(out), i
    cdef Py_ssize_t rows = cnp.PyArray_SIZE(x) // columns if columns else 0, line = columns * size
    # Enough rows to a run that the sums of all runs stay small.
    cdef Py_ssize_t run = max(rows_per_run(columns), ceil_div(rows * line, SUM_BYTES)), runs = ceil_div(rows, run)
    cdef const char *px = cnp.PyArray_BYTES(x)
    cdef const char *py = cnp.PyArray_BYTES(y)
    cdef const char *pc = cnp.PyArray_BYTES(centre)
    cdef char *po = cnp.PyArray_BYTES(out)
    cdef int threads = threads_for(<double> rows * columns * LIGHT)
    cdef char *sums = acquire(runs * line + 1)
    with nogil:
        memset(sums, 0, runs * line)
        memset(po, 0, line)
        for i in prange(runs, num_threads=threads, schedule="static"):
            table.column_sum[op](min(run, rows - i * run), columns, px + i * run * line, py + i * run * line, pc,
                                 sums + i * line)
        table.column_sum[FC_SUM](runs, columns, sums, sums, sums, po)
    release(sums)


def bias_add(cnp.ndarray x, cnp.ndarray bias, bint relu, cnp.ndarray y):
    """Write act(x + bias) to y, which may be x."""
    cdef const fc_kernels *table = kernels(y)
    cdef Py_ssize_t columns = cnp.PyArray_SIZE(bias), line = columns * cnp.PyArray_ITEMSIZE(y), i
    cdef Py_ssize_t rows = cnp.PyArray_SIZE(y) // columns if columns else 0, run = rows_per_run(columns)
    cdef const char *px = cnp.PyArray_BYTES(x)
    cdef const char *pb = cnp.PyArray_BYTES(bias)
    cdef char *py = cnp.PyArray_BYTES(y)
    cdef int threads = threads_for(<double> rows * columns * LIGHT)
    with nogil:
        for i in prange(ceil_div(rows, run), num_threads=threads, schedule="static"):
            table.bias_add(min(run, rows - i * run), columns, px + i * run * line, pb, relu, py + i * run * line)


def normalize(cnp.ndarray x, cnp.ndarray mean, cnp.ndarray scale, cnp.ndarray offset, cnp.ndarray y):
    """Write (x - mean) * scale + offset to y."""
    cdef const fc_kernels *table = kernels(y)
    cdef Py_ssize_t columns = cnp.PyArray_SIZE(mean), line = columns * cnp.PyArray_ITEMSIZE(y), i
    cdef Py_ssize_t rows = cnp.PyArray_SIZE(y) // columns if columns else 0, run = rows_per_run(columns)
    cdef const char *px = cnp.PyArray_BYTES(x)
    cdef const char *pm = cnp.PyArray_BYTES(mean)
    cdef const char *ps = cnp.PyArray_BYTES(scale)
    cdef const char *po = cnp.PyArray_BYTES(offset)
    cdef char *py = cnp.PyArray_BYTES(y)
    cdef int threads = threads_for(<double> rows * columns * LIGHT)
    with nogil:
        for i in prange(ceil_div(rows, run), num_threads=threads, schedule="static"):
            table.normalize(min(run, rows - i * run), columns, px + i * run * line, pm, ps, po, py + i * run * line)


def normalize_backward(cnp.ndarray dy, cnp.ndarray x, cnp.ndarray mean, cnp.ndarray scale, cnp.ndarray dy_mean,
                       cnp.ndarray slope, cnp.ndarray dx):
    """Write scale * (dy - dy_mean - (x - mean) * slope) to dx."""
    cdef const fc_kernels *table = kernels(dx)
    cdef Py_ssize_t columns = cnp.PyArray_SIZE(mean), line = columns * cnp.PyArray_ITEMSIZE(dx), i
    cdef Py_ssize_t rows = cnp.PyArray_SIZE(dx) // columns if columns else 0, run = rows_per_run(columns)
    cdef const char *pg = cnp.PyArray_BYTES(dy)
    cdef const char *px = cnp.PyArray_BYTES(x)
    cdef const char *pm = cnp.PyArray_BYTES(mean)
    cdef const char *ps = cnp.PyArray_BYTES(scale)
    cdef const char *pd = cnp.PyArray_BYTES(dy_mean)
    cdef const char *pk = cnp.PyArray_BYTES(slope)
    cdef char *po = cnp.PyArray_BYTES(dx)
    cdef int threads = threads_for(<double> rows * columns * LIGHT)
    with nogil:
        for i in prange(ceil_div(rows, run), num_threads=threads, schedule="static"):
            table.normalize_backward(min(run, rows - i * run), columns, pg + i * run * line, px + i * run * line, pm,
                                     ps, pd, pk, po + i * run * line)


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
    Py_ssize_t n
    char *p
    char *g
    char *m
    char *v


cdef inline char *after(char *start, Py_ssize_t step) noexcept:
    return start if start == NULL else start + step


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
    cdef Run first
    cdef cnp.ndarray p
    for i in range(len(params)):
        p = params[i]
        n = cnp.PyArray_SIZE(p)
        if runs != NULL:
            first = Run(n, start_of(params, i), start_of(grads, i), start_of(m, i), start_of(v, i))
            for j in range(ceil_div(n, RUN)):
                step = j * RUN * cnp.PyArray_ITEMSIZE(p)
                runs[total + j] = Run(min(RUN, n - j * RUN), first.p + step, first.g + step,
                                      after(first.m, step), after(first.v, step))
        total += ceil_div(n, RUN)
    return total


def sgd(list params, list grads, list momenta, double rate, double momentum, bint nesterov, double decay):
    """Update params and momenta in place; momenta is empty where momentum is 0. All of one element type."""
    cdef Py_ssize_t count = list_runs(params, grads, [], momenta, NULL), i
    cdef const fc_kernels *table
    cdef Run *runs
    cdef int threads = threads_for(<double> count * RUN * LIGHT)
    if not count:
        return
    table = kernels(params[0])
    runs = <Run *> acquire(count * sizeof(Run))
    list_runs(params, grads, [], momenta, runs)
    with nogil:
        for i in prange(count, num_threads=threads, schedule="static"):
            table.sgd(runs[i].n, runs[i].p, runs[i].g, runs[i].v, rate, momentum, nesterov, decay)
    release(<char *> runs)


def adam(list params, list grads, list m, list v, double alpha, double beta_1, double beta_2, double epsilon,
         double rate_decay):
    """Update params and both moments in place. All of one element type."""
    cdef Py_ssize_t count = list_runs(params, grads, m, v, NULL), i
    cdef const fc_kernels *table
    cdef Run *runs
    cdef int threads = threads_for(<double> count * RUN * LIGHT)
    if not count:
        return
    table = kernels(params[0])
    runs = <Run *> acquire(count * sizeof(Run))
    list_runs(params, grads, m, v, runs)
    with nogil:
        for i in prange(count, num_threads=threads, schedule="static"):
            table.adam(runs[i].n, runs[i].p, runs[i].g, runs[i].m, runs[i].v, alpha, beta_1, beta_2, epsilon,
                       rate_decay)
    release(<char *> runs)
