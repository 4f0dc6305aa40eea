/* What this program is made of, for --version and the report. */
#ifndef MPQ_CLI_VERSION_H
#define MPQ_CLI_VERSION_H

#include <stddef.h>

struct mpq_version {
    const char *name, *value;
};

size_t mpq_version_count(void);
struct mpq_version mpq_version_at(size_t i); /* i < mpq_version_count() */

#endif
