#include "quantcore/base/thread.h"

#include <omp.h>

static int thread_count = 1;

void mpq_thread_set_count(int n)
{
    int most = omp_get_thread_limit();
    thread_count = n < most ? n : most;
    thread_count = thread_count > 1 ? thread_count : 1;
    omp_set_dynamic(0);
    omp_set_num_threads(thread_count);
}

int mpq_thread_count(void)
{
    return thread_count;
}

int mpq_thread_available(void)
{
    return omp_get_num_procs();
}

void mpq_parallel_for(int64_t n, int64_t grain,
                      void (*fn)(void *arg, int64_t begin, int64_t end, int thread), void *arg)
{
    int64_t pieces = grain > 1 ? n / grain : n;
    if (pieces > thread_count)
        pieces = thread_count;
    if (n <= 0)
        return;
    if (pieces <= 1 || omp_in_parallel()) {
        fn(arg, 0, n, 0);
        return;
    }
#pragma omp parallel num_threads((int)pieces)
    {
        int thread = omp_get_thread_num();
        fn(arg, n * thread / pieces, n * (thread + 1) / pieces, thread);
    }
}

bool mpq_thread_is_inside(void)
{
    return omp_in_parallel();
}

int mpq_thread_least(double *load, double cost)
{
    int least = 0;
    for (int t = 1; t < thread_count; t++)
        if (load[t] < load[least])
            least = t;
    load[least] += cost;
    return least;
}

void mpq_thread_deal(int64_t n, const double *cost, double *load, int *owner)
{
    for (int64_t i = 0; i < n; i++)
        owner[i] = -1;
    for (int64_t dealt = 0; dealt < n; dealt++) {
        int64_t most = -1;
        for (int64_t i = 0; i < n; i++)
            if (owner[i] < 0 && (most < 0 || cost[i] > cost[most]))
                most = i;
        owner[most] = mpq_thread_least(load, cost[most]);
    }
}
