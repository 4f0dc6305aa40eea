#include "cli/stopwatch.h"

#include <stdio.h>
#include <sys/resource.h>
#include <time.h>

double mpq_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

uint64_t mpq_peak_rss_bytes(void)
{
    /* getrusage() keeps the mark of the whole process; VmHWM is the one that can be reset. */
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "VmHWM: %llu kB", &kib) == 1)
            break;
    if (file)
        fclose(file);
    struct rusage usage;
    if (!kib && getrusage(RUSAGE_SELF, &usage) == 0)
        kib = (unsigned long long)usage.ru_maxrss;
    return (uint64_t)kib * 1024;
}

void mpq_peak_rss_reset(void)
{
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (!file)
        return;
    fputs("5\n", file);
    fclose(file); /* a kernel that refuses leaves the mark where it was */
}
