#ifdef __linux__
#define _DEFAULT_SOURCE /* madvise() */
#endif
#include "quantcore/base/pages.h"

#include <stdint.h>
#ifdef __linux__
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

#define HUGE_BYTES ((size_t)2 << 20)

void mpq_pages_prefer_huge(void *block, size_t bytes)
{
#ifdef MADV_HUGEPAGE
    if (bytes < HUGE_BYTES)
        return;
    int error = errno;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)block + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)block + bytes) / page * page;
    madvise((void *)begin, end - begin, MADV_HUGEPAGE); /* or not */
    errno = error;
#else
    (void)block;
    (void)bytes;
#endif
}
