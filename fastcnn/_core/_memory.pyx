"""Memory of arrays, which begin at cache lines: vectors that cross lines take twice the time to load and store.

What is freed of arrays that come and go waits for the next one, which is cut off the smallest block that is large
enough; blocks that wait side by side are one. A step of training makes the same arrays as the step before. From the
system they would come as pages that it fills with zeros one by one, at each step anew: a third of the time of a step
of LeNet-5. Within ``Reusing`` NumPy takes the memory of new arrays from here instead, by its allocator interface
(NEP 49); where they are freed it comes back, whenever that is. Memory that is taken within ``Keeping``, for arrays that
stay, does not wait when it is freed.
"""

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint8_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memmove, memset

cimport numpy as cnp

cnp.import_array()


cdef extern from *:
    """
    #include <sys/mman.h>
    #include <time.h>
    #include <unistd.h>

    static volatile int fc_memory_busy = 0;
    static void fc_memory_lock(void) { while (__sync_lock_test_and_set(&fc_memory_busy, 1)) {} }
    static void fc_memory_unlock(void) { __sync_lock_release(&fc_memory_busy); }

    static void *fc_map(size_t size) {
        void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return p == MAP_FAILED ? NULL : p;
    }

    static size_t fc_page_size(void) {
        long size = sysconf(_SC_PAGESIZE);
        return size > 0 ? size : 4096;
    }

    static double fc_seconds(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return t.tv_sec + 1e-9 * t.tv_nsec;
    }

    /* Bytes from which an array asks for huge pages, most often of 2 MB: 100 MB then take 50 faults when they are first
       written, and 7 ms; 25,600 pages of 4 KB take 40. So that arrays of less have a part in one, they are cut off the
       region that the last ones left, which costs nothing before it is written. */
    #define FC_HUGE (256 << 10)
    #define FC_HUGE_PAGE (2 << 20)
    #define FC_REGION (64 << 20)

    /* Seconds that a huge page may take when it is first written. A virtual machine may have left its free memory to
       its host, which gives it back page by page: 2 MB then take 2 to 5 ms, in small pages, which it has kept, 0.7. */
    #define FC_SLOW_PAGE 1e-3

    /* One of arrays that come and go, which are written often, and one of those that stay. */
    static struct fc_region { char *next; size_t left; } fc_regions[2];

    static int fc_new_region(struct fc_region *r, size_t size) {
        size_t before;
        char *start = fc_map(size + FC_HUGE_PAGE);
        if (start == NULL)
            return 0;
        if (r->left)
            munmap(r->next, r->left);
        before = -(size_t)start % FC_HUGE_PAGE;
        if (before)
            munmap(start, before);
        r->next = start + before;
        r->left = size + FC_HUGE_PAGE - before;
    #ifdef MADV_HUGEPAGE
        madvise(r->next, r->left, MADV_HUGEPAGE);  /* a wish: nothing is lost where it is not granted */
    #endif
        return 1;
    }

    /* Writes to the huge pages that begin in a block; once one takes long, small ones follow in the region. */
    static void fc_try_pages(char *block, char *end, char *region_end) {
        (void)block, (void)end, (void)region_end;
    #ifdef MADV_NOHUGEPAGE
        char *page = block + -(size_t)block % FC_HUGE_PAGE;
        while (page < end) {
            double since = fc_seconds();
            *(volatile char *)page = 0;
            page += FC_HUGE_PAGE;
            if (page < region_end && fc_seconds() - since > FC_SLOW_PAGE) {
                madvise(page, region_end - page, MADV_NOHUGEPAGE);
                break;
            }
        }
    #endif
    }

    /* Pages, whole ones, which the system may take back when they are freed: at once, but for those of a huge page that
       others have a part in. Whoever calls this holds the lock. */
    static void *fc_pages(size_t size, int stays) {
        struct fc_region *r = fc_regions + stays;
        char *p;
        if (size < FC_HUGE || (size > r->left && !fc_new_region(r, size + FC_REGION)))
            return fc_map(size);
        p = r->next;
        r->next += size;
        r->left -= size;
        if (stays)
            fc_try_pages(p, r->next, r->next + r->left);
        return p;
    }
    """
    void *fc_pages(size_t size, int stays) noexcept nogil
    size_t fc_page_size() noexcept
    int munmap(void *p, size_t size) noexcept nogil
    int posix_memalign(void **p, size_t alignment, size_t size) noexcept nogil
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
    # Blocks that can wait; bytes from which a block is worth it.
    SLOTS = 1024
    LARGE = 16384
    # Bytes of a block for which as many of those go back that wait, none of which is large enough: then memory is worth
    # more than time (VGG-16's step in 1.41 GB, not 1.50; from 20 MB on it would take 4 % longer).
    GREAT = 32 << 20

# Sizes are rounded to pages, so that each block, and what is cut off it, can be given back.
cdef size_t page = fc_page_size()

cdef struct Block:
    # What is in front of every array's memory: a line of its own, so that the array begins at one. Bytes of all of it,
    # 0 for a small one; those that were asked for; and whether it waits when it is freed.
    size_t size, asked
    bint waits
    char rest[44]

# In the order of their addresses.
cdef Block *waiting[SLOTS]
cdef Py_ssize_t n_waiting
cdef size_t waiting_bytes, used_bytes, most_used_bytes


cdef inline char *end_of(Block *block) noexcept nogil:
    return <char *> block + block.size


cdef void insert(Py_ssize_t at, Block *block) noexcept nogil:
    global n_waiting
    memmove(waiting + at + 1, waiting + at, (n_waiting - at) * sizeof(Block *))
    waiting[at] = block
    n_waiting += 1


cdef void remove(Py_ssize_t at) noexcept nogil:
    global n_waiting
    n_waiting -= 1
    memmove(waiting + at, waiting + at + 1, (n_waiting - at) * sizeof(Block *))


cdef void wait(Block *block) noexcept nogil:
    """Have a block wait, joined with those before and behind it, so that what lay there one by one can be one again."""
    global waiting_bytes
    cdef Py_ssize_t first = 0, last = n_waiting, middle
    waiting_bytes += block.size
    while first < last:
        middle = (first + last) // 2
        if waiting[middle] < block:
            first = middle + 1
        else:
            last = middle
    if first < n_waiting and end_of(block) == <char *> waiting[first]:
        block.size += waiting[first].size
        remove(first)
    if first > 0 and end_of(waiting[first - 1]) == <char *> block:
        waiting[first - 1].size += block.size
    else:
        insert(first, block)


cdef Block *found(size_t size) noexcept nogil:
    """Return a block of so many bytes, or not many more, that waited or is cut off the end of the least of those that
    are larger; NULL where there is none."""
    global waiting_bytes
    cdef Py_ssize_t i, best = -1
    cdef Block *block
    for i in range(n_waiting):
        if size <= waiting[i].size and (best < 0 or waiting[i].size < waiting[best].size):
            best = i
    if best < 0:
        return NULL
    block = waiting[best]
    if block.size <= size + size // 8:
        remove(best)
    else:
        block.size -= size
        block = <Block *> end_of(block)
        block.size = size
    waiting_bytes -= block.size
    return block


cdef void shrink(size_t room) noexcept nogil:
    """Give what waits back to the system, from the last in memory on, until no more than so much is left."""
    global waiting_bytes
    cdef Block *last
    cdef size_t size
    while n_waiting and waiting_bytes > room:
        last = waiting[n_waiting - 1]
        size = min(last.size, (waiting_bytes - room + page - 1) // page * page)
        waiting_bytes -= size
        last.size -= size
        if not last.size:
            remove(n_waiting - 1)
        munmap(end_of(last) if last.size else <char *> last, size)


cdef void drop(Py_ssize_t count) noexcept nogil:
    """Give blocks that wait back to the system, the last in memory first, until no more than so many are left."""
    global waiting_bytes
    while n_waiting > count:
        waiting_bytes -= waiting[n_waiting - 1].size
        munmap(waiting[n_waiting - 1], waiting[n_waiting - 1].size)
        remove(n_waiting - 1)


cdef Block *new_block(size_t size, bint stays) noexcept nogil:
    """Return new pages; whoever calls this holds the lock."""
    cdef Block *block = <Block *> fc_pages(size, stays)
    if block != NULL:
        block.size = size
    return block


cdef Block *take_waiting(size_t size) noexcept nogil:
    """Return a block that has waited, or new pages; whoever calls this holds the lock."""
    global used_bytes, most_used_bytes
    cdef size_t most, room
    cdef Block *block = found(size)
    if block == NULL:
        # What is used and what waits is never more than twice what has been used at one time. With half of that a
        # step of a network for CIFAR-10 still had a fifth of its memory from the system.
        most = 2 * most_used_bytes
        room = most - used_bytes - size if most > used_bytes + size else 0
        if size >= GREAT:
            room = min(room, waiting_bytes - min(size, waiting_bytes))
        shrink(room)
        block = new_block(size, False)
    if block != NULL:
        used_bytes += block.size
        most_used_bytes = max(most_used_bytes, used_bytes)
    return block


# As a context NumPy hands on what the handler says: whether memory waits when it is freed, NULL if not.

cdef void *take(void *waits, size_t asked) noexcept nogil:
    cdef size_t size
    cdef void *small
    cdef Block *block
    if asked > <size_t> -1 - 2 * page:
        return NULL
    if asked < LARGE:
        if posix_memalign(&small, sizeof(Block), sizeof(Block) + asked) != 0:
            return NULL
        block = <Block *> small
        block.size = 0
    else:
        size = (sizeof(Block) + asked + page - 1) // page * page
        fc_memory_lock()
        block = take_waiting(size) if waits != NULL else new_block(size, True)
        fc_memory_unlock()
        if block == NULL:
            return NULL
    block.asked = asked
    block.waits = waits != NULL
    return block + 1


cdef void *take_zeros(void *waits, size_t count, size_t size) noexcept nogil:
    cdef void *p
    if size and count > <size_t> -1 // size:
        return NULL
    p = take(waits, count * size)
    if p != NULL and (waits != NULL or count * size < LARGE):
        memset(p, 0, count * size)  # else they are new pages
    return p


cdef void give(void *waits, void *p, size_t size) noexcept nogil:
    # NumPy says a size, but not that which it asked for where an array is empty.
    global used_bytes
    cdef Block *block
    if p == NULL:
        return
    block = <Block *> p - 1
    if block.size == 0:
        free(block)
        return
    if not block.waits:
        munmap(block, block.size)
        return
    fc_memory_lock()
    used_bytes -= block.size
    if n_waiting == SLOTS:
        drop(SLOTS // 2)
    wait(block)
    fc_memory_unlock()


cdef void *change(void *waits, void *p, size_t size) noexcept nogil:
    cdef void *to = take(waits, size)
    if to != NULL and p != NULL:
        memcpy(to, p, min(size, (<Block *> p - 1).asked))
        give(waits, p, 0)
    return to


cdef void describe(PyDataMem_Handler *handler, void *waits) noexcept:
    memcpy(handler.name, b"fastcnn", 8)
    handler.version = 1
    handler.allocator = PyDataMemAllocator(waits, take, take_zeros, change, give)


cdef PyDataMem_Handler reusing, keeping
describe(&reusing, &reusing)
describe(&keeping, NULL)
cdef object REUSING = PyCapsule_New(&reusing, "mem_handler", NULL)
cdef object KEEPING = PyCapsule_New(&keeping, "mem_handler", NULL)


cdef class Context:
    """Within it new arrays of this thread have their memory as its handler says."""

    cdef object handler, before

    def __enter__(self):
        self.before = PyDataMem_SetHandler(self.handler)

    def __exit__(self, *_):
        PyDataMem_SetHandler(self.before)


cdef class Reusing(Context):
    """A context in which new arrays of this thread have memory that others leave to them."""

    def __cinit__(self):
        self.handler = REUSING


cdef class Keeping(Context):
    """A context in which new arrays of this thread, which stay for long, have memory of their own."""

    def __cinit__(self):
        self.handler = KEEPING


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
