/* Cutting a workspace into arrays. */
#ifndef MPQ_OPS_KERNEL_SCRATCH_H
#define MPQ_OPS_KERNEL_SCRATCH_H

#include <stddef.h>
#include <stdint.h>

/* n objects of a size at *used bytes from base, 64-byte aligned like it; *used moves past them.
 * With base NULL nothing but *used is counted, so one function both sizes and cuts. */
static inline void *mpq_scratch_take(void *base, size_t *used, int64_t n, size_t size)
{
    void *p = base ? (char *)base + *used : NULL;
    *used += ((size_t)n * size + 63) / 64 * 64;
    return p;
}

#endif
