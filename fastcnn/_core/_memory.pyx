"""Memory of arrays that come and go: what is freed waits for the next array of about its size.

A step of training makes the same arrays as the step before. From the system they would come as pages that it fills
with zeros one by one, at each step anew: a third of the time of a step of LeNet-5. Within ``Reusing`` NumPy takes the
memory of new arrays from here instead, by its allocator interface (NEP 49); where they are freed it comes back,
whenever that is.
"""

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

cimport numpy as cnp

cnp.import_array()


cdef extern from *:
    """
    #include <sys/mman.h>

    static volatile int fc_memory_busy = 0;
    static void fc_memory_lock(void) { while (__sync_lock_test_and_set(&fc_memory_busy, 1)) {} }
    static void fc_memory_unlock(void) { __sync_lock_release(&fc_memory_busy); }

    /* Pages of their own, which the system has back at once when they are freed. */
    static void *fc_pages(size_t size) {
        void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return p == MAP_FAILED ? NULL : p;
    }
    """
    void *fc_pages(size_t size) noexcept nogil
    int munmap(void *p, size_t size) noexcept nogil
    void fc_memory_lock() noexcept nogil
    void fc_memory_unlock() noexcept nogil


cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyDataMemAllocator:
        void *ctx
        void *(*malloc)(void *ctx, size_t size) noexcept nogil
        void *(*calloc)(void *ctx, size_t count, size_t size) noexcept nogil
        void *(*realloc)(void *ctx, void *p, size_t size) noexcept nogil
        void (*free)(void *ctx, void *p, size_t size) noexcept nogil

    ctypedef struct PyDataMem_Handler:
        char name[127]
        uint8_t version
        PyDataMemAllocator allocator

    object PyDataMem_SetHandler(object handler)


cdef enum:
    # Blocks that can wait; bytes from which a block is worth it; pages that sizes are rounded to.
    SLOTS = 1024
    LARGE = 16384
    PAGE = 4096

cdef struct Block:
    # What is in front of every array's memory: a line of its own, so that the array begins at one. Bytes of all of it,
    # 0 for a small one, which does not wait; and those that were asked for.
    size_t size, asked
    char rest[48]

cdef Block *waiting[SLOTS]
cdef Py_ssize_t n_waiting
cdef size_t waiting_bytes, used_bytes, most_used_bytes


cdef Block *found(size_t size) noexcept nogil:
    """Return the smallest block that waits and is large enough, and not much larger; NULL where there is none."""
    global n_waiting, waiting_bytes
    cdef Py_ssize_t i, best = -1
    cdef Block *block = NULL
    for i in range(n_waiting):
        if size <= waiting[i].size <= size + size // 8 and (best < 0 or waiting[i].size < waiting[best].size):
            best = i
    if best >= 0:
        block = waiting[best]
        n_waiting -= 1
        waiting[best] = waiting[n_waiting]
        waiting_bytes -= block.size
    return block


cdef void shrink(size_t room) noexcept nogil:
    """Give blocks that wait back to the system, the first that came first, until they hold no more than so much."""
    global n_waiting, waiting_bytes
    cdef Py_ssize_t i = 0, j
    while i < n_waiting and waiting_bytes > room:
        waiting_bytes -= waiting[i].size
        munmap(waiting[i], waiting[i].size)
        i += 1
    if i:
        for j in range(i, n_waiting):
            waiting[j - i] = waiting[j]
        n_waiting -= i


cdef void *take(void *ctx, size_t asked) noexcept nogil:
    global used_bytes, most_used_bytes
    cdef size_t size, most
    cdef Block *block = NULL
    if asked > <size_t> -1 - 2 * PAGE:
        return NULL
    if asked < LARGE:
        block = <Block *> malloc(sizeof(Block) + asked)
        if block != NULL:
            block.size = 0
    else:
        size = (sizeof(Block) + asked + PAGE - 1) // PAGE * PAGE
        fc_memory_lock()
        block = found(size)
        if block == NULL:
            # What is used and what waits is never more than twice what has been used at one time. With half of that a
            # step of a network for CIFAR-10 still had a fifth of its memory from the system.
            most = 2 * most_used_bytes
            shrink(most - used_bytes - size if most > used_bytes + size else 0)
            block = <Block *> fc_pages(size)
            if block != NULL:
                block.size = size
        if block != NULL:
            used_bytes += block.size
            most_used_bytes = max(most_used_bytes, used_bytes)
        fc_memory_unlock()
    if block == NULL:
        return NULL
    block.asked = asked
    return block + 1


cdef void *take_zeros(void *ctx, size_t count, size_t size) noexcept nogil:
    cdef void *p
    if size and count > <size_t> -1 // size:
        return NULL
    p = take(ctx, count * size)
    if p != NULL:
        memset(p, 0, count * size)
    return p


cdef void give(void *ctx, void *p, size_t size) noexcept nogil:
    # NumPy says a size, but not that which it asked for where an array is empty.
    global n_waiting, waiting_bytes, used_bytes
    cdef Block *block
    if p == NULL:
        return
    block = <Block *> p - 1
    if block.size == 0:
        free(block)
        return
    fc_memory_lock()
    used_bytes -= block.size
    if n_waiting == SLOTS:
        shrink(waiting_bytes // 2)
    waiting[n_waiting] = block
    n_waiting += 1
    waiting_bytes += block.size
    fc_memory_unlock()


cdef void *change(void *ctx, void *p, size_t size) noexcept nogil:
    cdef void *to = take(ctx, size)
    if to != NULL and p != NULL:
        memcpy(to, p, min(size, (<Block *> p - 1).asked))
        give(ctx, p, 0)
    return to


cdef PyDataMem_Handler handler
memcpy(handler.name, b"fastcnn", 8)
handler.version = 1
handler.allocator = PyDataMemAllocator(NULL, take, take_zeros, change, give)
cdef object CAPSULE = PyCapsule_New(&handler, "mem_handler", NULL)


cdef class Reusing:
    """A context in which new arrays of this thread have their memory from here."""

    cdef object before

    def __enter__(self):
        self.before = PyDataMem_SetHandler(CAPSULE)

    def __exit__(self, *_):
        PyDataMem_SetHandler(self.before)


def release():
    """Give all that waits back to the system, and forget how much has been needed."""
    global most_used_bytes
    fc_memory_lock()
    shrink(0)
    most_used_bytes = used_bytes
    fc_memory_unlock()


def held():
    """Return the bytes of arrays that there are, and of blocks that wait."""
    return used_bytes, waiting_bytes
