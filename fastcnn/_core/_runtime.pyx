"""The instruction set in use, threads, scratch memory: the only door to OpenMP and to the kernel table.

Drivers ask here for the kernel table for an array's element type (``kernels``), how many threads a piece of work
deserves (``threads_for``) and what each of them takes (``share``, ``take``), scratch memory (``acquire``, ``release``),
and the sizes of the caches; operations, whether an array can be read as it is (``are_plain``).
"""

import time

import numpy as np

from cython.parallel cimport prange

cimport numpy as cnp

from ._memory cimport give, take as take_memory
from ._memory import Keeping

cnp.import_array()


cdef extern from *:
    """
    #include <pthread.h>
    #include <unistd.h>
    #ifdef _OPENMP
    #define FC_OPENMP _OPENMP
    #else
    #define FC_OPENMP 0
    #endif

    static _Thread_local int fc_own_threads = 0, fc_last_threads = 1;

    /* Bytes of a data cache; 0 where the system does not tell. */
    static long fc_cache_bytes(int level) {
    #ifdef _SC_LEVEL1_DCACHE_SIZE
        long n = sysconf(level == 1 ? _SC_LEVEL1_DCACHE_SIZE
                         : level == 2 ? _SC_LEVEL2_CACHE_SIZE : _SC_LEVEL3_CACHE_SIZE);
        return n > 0 ? n : 0;
    #else
        (void)level;
        return 0;
    #endif
    }

    static pthread_mutex_t fc_gate = PTHREAD_MUTEX_INITIALIZER;

    static void *fc_pass_gate(void *unused) {
        pthread_mutex_lock(&fc_gate);
        pthread_mutex_unlock(&fc_gate);
        return unused;
    }

    /* Has up to so many threads wait side by side, then ends them; returns how many the system gave. They allocate
       nothing, which may be what there is no room for. */
    static int fc_start_threads(int count, pthread_t *threads) {
        int given = 0, i;
        pthread_mutex_lock(&fc_gate);
        while (given < count && pthread_create(threads + given, NULL, fc_pass_gate, NULL) == 0)
            given++;
        pthread_mutex_unlock(&fc_gate);
        for (i = 0; i < given; i++)
            pthread_join(threads[i], NULL);
        return given;
    }
    """
    ctypedef struct pthread_t:
        pass
    int fc_start_threads(int count, pthread_t *threads) noexcept
    const int FC_OPENMP
    int fc_own_threads  # what `threads(n)` asked for in this Python thread; 0: nothing
    int fc_last_threads
    long fc_cache_bytes(int level) noexcept


# ---- instruction set ----

cdef const fc_isa *available[FC_MAX_ISAS]
cdef int n_available = fc_available(available)
cdef const fc_isa *active = available[n_available - 1]


cdef const fc_kernels *kernels(cnp.ndarray x) noexcept:
    """Return the active table for the element type of x, which is float32 or float64."""
    return active.f32 if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32 else active.f64


def available_isas():
    """Name the instruction sets that this build has and this CPU can run, from the simplest to the best."""
    return tuple([available[i].name.decode() for i in range(n_available)])


def active_isa():
    """Name the instruction set in use."""
    return active.name.decode()


def lanes(cnp.dtype dtype):
    """Return the vector length of the active instruction set for float32 or float64."""
    return active.f32.lanes if dtype.itemsize == 4 else active.f64.lanes


def use_isa(str name):
    """Make the named instruction set the one in use."""
    global active
    for i in range(n_available):
        if available[i].name.decode() == name:
            active = available[i]
            return
    raise ValueError(
        f"FASTCNN_ISA is {name!r}, but this build on this CPU can run only {', '.join(available_isas())}"
    )


# ---- caches ----

def found_cache_bytes(int level, folder="/sys/devices/system/cpu/cpu0/cache"):
    """Return the size of a data cache as Linux tells it, or else the C library, which takes some CPUs' L3 for ten; 0
    where neither knows."""
    for index in range(8):
        try:
            this_level, kind, size = [read_fact(f"{folder}/index{index}/{name}") for name in ("level", "type", "size")]
            if int(this_level) == level and kind != "Instruction":
                return int(size.rstrip("KM")) << (20 if "M" in size else 10)
        except (OSError, ValueError):
            break
    return fc_cache_bytes(level)


cdef str read_fact(str path):
    with open(path) as file:
        return file.read().strip()


cdef Py_ssize_t l1_bytes = found_cache_bytes(1) or 32 << 10
cdef Py_ssize_t l2_bytes = found_cache_bytes(2) or 512 << 10
cdef Py_ssize_t l3_bytes = found_cache_bytes(3) or 4 << 20
# CPUs have a large L2 because their L3 is far.
cdef bint l3_is_far = l2_bytes > 1 << 20
# What blocks that shall stay in L2 are sized for. Before a far L3 the rest is for what is brought from there ahead of
# its use (two threads of a Granite Rapids, 2 MB, with all of it: 2048^3 59 ms instead of 48, 64-64 filters, 64 images
# of 32x32, 5.4 instead of 5.0).
cdef Py_ssize_t l2_room = min(l2_bytes, 1 << 20)
# A larger result is better written past the caches, which then need not read its lines first: it will not be there when
# it is read. Those of two cores have no room for it, and a far L3 is no faster than memory; or it takes more than half
# of L3. (With two threads networks took 2 to 10 % less time per step of training.)
cdef Py_ssize_t past_bytes = 2 * l2_bytes if l3_is_far else l3_bytes // 2


def cache_bytes():
    """Return the sizes that block sizes are derived from: L1 data, L2, L3, in bytes."""
    return l1_bytes, l2_bytes, l3_bytes


def has_far_l3():
    """Return whether L3 is far from the cores."""
    return l3_is_far


def bytes_past_the_caches():
    """Return the size above which most results are written past the caches, in bytes."""
    return past_bytes


# ---- threads ----

# Below this many floating-point operations in vectors of 8 (or their time's worth) a second thread costs more than it
# gives: waking the pool and meeting at its end take about 3 microseconds (benchmarks/test_small.py).
cdef double SERIAL_WORK = 4e5
cdef int shared_threads = 1
cdef bint forked = False


cdef int most_threads() noexcept nogil:
    """Return how many threads a primitive called from this Python thread may use."""
    return fc_own_threads or shared_threads if FC_OPENMP and not forked else 1


cdef int threads_for(double work) noexcept nogil:
    """Return how many threads a primitive of so many floating-point operations should use."""
    global fc_last_threads
    fc_last_threads = most_threads() if work >= SERIAL_WORK else 1
    return fc_last_threads


cdef int threads_for_flops(const fc_kernels *table, double flops) noexcept nogil:
    """The same for multiplications and additions, of which a vector does as many at a time as it has lanes."""
    return threads_for(flops * 8 / table.lanes)


def set_num_threads(int n):
    """Set the number of threads for every Python thread without a setting of its own."""
    global shared_threads
    shared_threads = n


def startable_threads(int most):
    """Return how many threads, at most so many, the system gives this process beside those that it has."""
    cdef char *scratch = acquire(most * sizeof(pthread_t))
    cdef int given = fc_start_threads(most, <pthread_t *> scratch)  # with the GIL, so that no fork comes between
    release(scratch)
    return given


def set_own_threads(int n):
    """Set the number of threads for the calling Python thread (0: the shared one); return the old one."""
    global fc_own_threads
    old = fc_own_threads
    fc_own_threads = n
    return old


def own_threads():
    """Return the number of threads that is set for the calling Python thread; 0: the shared one."""
    return fc_own_threads


def get_num_threads():
    """Return how many threads a large primitive called from this Python thread uses."""
    return most_threads()


def last_threads():
    """Return how many threads the last primitive used that was called from this Python thread."""
    return fc_last_threads


def after_fork_in_child():
    """Keep the child of a fork serial: the parent's pool threads do not exist there."""
    global forked
    forked = True


def is_forked():
    """Whether this process is such a child."""
    return forked


def openmp_version():
    """Return the date of the OpenMP specification built against, 0 for a serial build."""
    return FC_OPENMP


# ---- scratch memory ----

# A few buffers wait to be used again; the GIL guards the list. What does not fit is given back to the system.
cdef enum:
    SLOTS = 8
cdef size_t KEPT_BYTES = 256 << 20

cdef struct Buffer:
    char *start
    # Bytes that it has, and those that were asked for, of one that is in use.
    size_t size, asked
    bint busy

# The most bytes that were in use at once.
cdef size_t peak
cdef Buffer buffers[SLOTS]
for _i in range(SLOTS):
    buffers[_i] = Buffer(NULL, 0, 0, False)


cdef char *acquire(size_t size) except NULL:
    """Return scratch memory of at least size bytes, aligned to a cache line; pair with release()."""
    global peak
    cdef int i, best = -1, largest_free = -1
    cdef size_t asked = size, in_use = size
    cdef char *start
    for i in range(SLOTS):
        if buffers[i].busy:
            in_use += buffers[i].asked
            continue
        if buffers[i].size >= size and (best < 0 or buffers[i].size < buffers[best].size):
            best = i
        if largest_free < 0 or buffers[i].size > buffers[largest_free].size:
            largest_free = i
    peak = max(peak, in_use)
    if best >= 0 and buffers[best].start != NULL:
        buffers[best].busy = True
        buffers[best].asked = asked
        return buffers[best].start
    # A little more than asked for, so that slightly larger shapes find it large enough.
    size = ((size + size // 8) | 4095) + 1
    start = <char *> take_memory(NULL, size)
    if start == NULL:
        raise MemoryError(f"no {size} bytes of scratch memory")
    # In place of the largest, so that no more buffers grow large than are in use at once.
    if largest_free >= 0:
        give(NULL, buffers[largest_free].start, 0)
        buffers[largest_free] = Buffer(start, size, asked, True)
    return start


cdef void release(char *buffer) noexcept:
    """Give back what acquire() returned."""
    cdef int i
    cdef size_t kept = 0
    for i in range(SLOTS):
        if buffers[i].start == buffer:
            for j in range(SLOTS):
                kept += buffers[j].size
            if kept > KEPT_BYTES:
                break
            buffers[i].busy = False
            return
    else:
        give(NULL, buffer, 0)
        return
    give(NULL, buffer, 0)
    buffers[i] = Buffer(NULL, 0, 0, False)


cdef cnp.ndarray aligned(Py_ssize_t size, cnp.dtype dtype):
    """Return an array of so many elements that begins at a cache line, and stays."""
    with Keeping():
        return np.empty(size, dtype)


def scratch_bytes():
    """Return how many bytes of scratch memory are held, in use or waiting."""
    cdef size_t total = 0
    for i in range(SLOTS):
        total += buffers[i].size
    return total


def peak_scratch():
    """Return how many bytes of scratch memory were in use at once at most since this was last called."""
    global peak
    found = peak
    peak = 0
    return found


# ---- checks and limits ----

cdef bint is_plain(object x) noexcept:
    """Whether kernels can read this as it is: an ndarray of float32 or float64, C-ordered, aligned, native."""
    if not cnp.PyArray_CheckExact(x) or not cnp.PyArray_ISCARRAY_RO(<cnp.ndarray> x):
        return False
    return cnp.PyArray_TYPE(<cnp.ndarray> x) in (cnp.NPY_FLOAT32, cnp.NPY_FLOAT64)


def are_plain(Py_ssize_t required, *arrays):
    """Whether kernels can read all of these as they are, and their element type is one; behind the first `required`
    ones None will do."""
    cdef int kind = -1
    cdef Py_ssize_t i
    for i, x in enumerate(arrays):
        if x is None and i >= required:
            continue
        if not is_plain(x):
            return False
        if kind < 0:
            kind = cnp.PyArray_TYPE(<cnp.ndarray> x)
        elif cnp.PyArray_TYPE(<cnp.ndarray> x) != kind:
            return False
    return True


def first_misfit(list arrays, list params, bint writeable):
    """Return where arrays first holds something else than a plain array of its param's shape and element type, which
    can be written to where that is asked; -1 where everything fits.

    params hold arrays, unless they are the arrays themselves.
    """
    cdef Py_ssize_t i
    for i in range(len(arrays)):
        if not are_plain(2, arrays[i], params[i]):
            return i
        if not cnp.PyArray_SAMESHAPE(arrays[i], params[i]):
            return i
        if writeable and not cnp.PyArray_ISWRITEABLE(arrays[i]):
            return i
    return -1


def fma_rate(cnp.dtype dtype, int threads, double seconds):
    """Run multiply-adds on registers alone for about so many seconds; return the best rate in FLOP/s."""
    cdef const fc_kernels *table = active.f32 if dtype.itemsize == 4 else active.f64
    cdef Py_ssize_t rounds = 20000
    cdef double done, best = 0
    cdef int _t
    end = time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        done = 0
        with nogil:
            for _t in prange(threads, num_threads=threads, schedule="static", chunksize=1):
                done += table.fma_rounds(rounds)
        now = time.perf_counter()
        best = max(best, done / (now - start))
        if now > end:
            return best
