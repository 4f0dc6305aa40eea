/* Seconds and peak memory of the stages of a run. They are shown and reported, and never decide
 * anything. */
#ifndef MPQ_CLI_STOPWATCH_H
#define MPQ_CLI_STOPWATCH_H

#include <stdint.h>

/* Since some fixed moment; never goes back. */
double mpq_seconds(void);

/* Largest resident memory of this process since the last reset, or since it started where the
 * kernel cannot reset the mark (Linux can); 0 where unknown. */
uint64_t mpq_peak_rss_bytes(void);
void mpq_peak_rss_reset(void);

#endif
