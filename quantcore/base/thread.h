/* Data parallelism with a static split, on OpenMP. The piece a worker gets depends on n and the
 * thread count only, so a run repeats exactly for a given thread count. */
#ifndef MPQ_BASE_THREAD_H
#define MPQ_BASE_THREAD_H

#include <stdbool.h>
#include <stdint.h>

/* Threads that mpq_parallel_for() uses, n >= 1, or as many as OMP_THREAD_LIMIT leaves where those
 * are fewer; also told to OpenMP. */
void mpq_thread_set_count(int n);
int mpq_thread_count(void);
int mpq_thread_available(void); /* cores this process may run on */

/* fn(arg, begin, end, thread) over contiguous pieces of 0 .. n, at most one per thread, no piece
 * smaller than `grain` (>= 1) where n allows it. Pieces run concurrently and must write disjoint
 * memory; `thread` is 0 .. mpq_thread_count()-1, for a workspace of one's own. fn must not fail,
 * allocate or log. A call from inside fn runs serially with the caller's thread number lost (0). */
void mpq_parallel_for(int64_t n, int64_t grain,
                      void (*fn)(void *arg, int64_t begin, int64_t end, int thread), void *arg);

/* Whether the caller is in such a call, so that its own calls run serially. */
bool mpq_thread_is_inside(void);

/* Pieces of unequal cost: the thread that has least to do, the lowest of several; load
 * [mpq_thread_count()] then has the cost with it. Begin with zeros. */
int mpq_thread_least(double *load, double cost);

/* Deal n pieces out, owner [n], those that cost [n] most first and of equals the first, each to
 * the thread that has least to do by then; load [mpq_thread_count()] is as above. */
void mpq_thread_deal(int64_t n, const double *cost, double *load, int *owner);

#endif
