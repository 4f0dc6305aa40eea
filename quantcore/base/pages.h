/* The pages that memory comes in. */
#ifndef MPQ_BASE_PAGES_H
#define MPQ_BASE_PAGES_H

#include <stddef.h>

/* A large block comes in pieces of 2 MB where the kernel can, not in 512 faults each, which take as
 * long as a pass over a small network does. */
void mpq_pages_prefer_huge(void *block, size_t bytes);

#endif
