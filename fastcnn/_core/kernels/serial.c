/* Parallel regions of one thread as plain calls.  libgomp ends every region, those of one thread too, with a system
 * call that wakes whoever waits; for a small layer that is a large part of its time.  Where the linker can, setup.py has
 * it send GCC's calls to here (--wrap). */

void __real_GOMP_parallel(void (*body)(void *), void *data, unsigned threads, unsigned flags);

__attribute__((visibility("hidden"))) void __wrap_GOMP_parallel(void (*body)(void *), void *data, unsigned threads,
                                                                unsigned flags) {
    if (threads == 1)
        body(data);
    else
        __real_GOMP_parallel(body, data, threads, flags);
}
