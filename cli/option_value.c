/* What the texts of arguments mean: one parser a kind. */
#include "cli/option_table.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quantcore/base/thread.h"

static bool parse_number(const char *text, const char **end, double *out)
{
    if (!isdigit((unsigned char)*text) && !strchr(".-+", *text))
        return false; /* strtod would take "inf", "nan" and blanks */
    char *stop;
    double value = strtod(text, &stop);
    if (stop == text || !isfinite(value))
        return false;
    *end = stop;
    *out = value;
    return true;
}

bool mpq_parse_text(const struct mpq_option_row *row, const char *text, void *field)
{
    (void)row;
    *(const char **)field = text;
    return *text != '\0';
}

bool mpq_parse_switch(const struct mpq_option_row *row, const char *text, void *field)
{
    (void)row;
    *(bool *)field = strcmp(text, "yes") == 0;
    return *(bool *)field || strcmp(text, "no") == 0;
}

/* The position of `text` among the words of row->argument, "a|b|c". */
bool mpq_parse_choice(const struct mpq_option_row *row, const char *text, void *field)
{
    size_t length = strlen(text);
    int position = 0;
    for (const char *word = row->argument; *text; position++) {
        size_t n = strcspn(word, "|");
        if (n == length && memcmp(word, text, n) == 0) {
            *(int *)field = position;
            return true;
        }
        if (!word[n])
            break;
        word += n + 1;
    }
    return false;
}

bool mpq_parse_target(const struct mpq_option_row *row, const char *text, void *field)
{
    (void)row;
    *(const struct mpq_target **)field = mpq_target_find(text);
    return *(const struct mpq_target **)field != NULL;
}

bool mpq_parse_unsigned(const struct mpq_option_row *row, const char *text, void *field)
{
    (void)row;
    char *end;
    errno = 0;
    *(uint64_t *)field = strtoull(text, &end, 10);
    return isdigit((unsigned char)*text) && !*end && !errno;
}

bool mpq_parse_count(const struct mpq_option_row *row, const char *text, void *field)
{
    uint64_t value;
    if (!mpq_parse_unsigned(row, text, &value) || value > 1000000000)
        return false;
    *(int64_t *)field = (int64_t)value;
    return true;
}

bool mpq_parse_positive(const struct mpq_option_row *row, const char *text, void *field)
{
    return mpq_parse_count(row, text, field) && *(int64_t *)field > 0;
}

bool mpq_parse_threads(const struct mpq_option_row *row, const char *text, void *field)
{
    if (strcmp(text, "all") == 0) {
        *(int64_t *)field = mpq_thread_available();
        return true;
    }
    return mpq_parse_positive(row, text, field) && *(int64_t *)field <= 1024;
}

bool mpq_parse_scale(const struct mpq_option_row *row, const char *text, void *field)
{
    (void)row;
    const char *end;
    return parse_number(text, &end, field) && !*end && *(double *)field > 0;
}

bool mpq_parse_channels(const struct mpq_option_row *row, const char *text, void *field)
{
    (void)row;
    struct mpq_per_channel *list = field;
    list->n = 0;
    for (;; text++) {
        if (list->n == 4 || !parse_number(text, &text, &list->value[list->n]))
            return false;
        list->n++;
        if (*text != ',')
            return !*text;
    }
}

bool mpq_parse_std(const struct mpq_option_row *row, const char *text, void *field)
{
    const struct mpq_per_channel *list = field;
    if (!mpq_parse_channels(row, text, field))
        return false;
    for (int i = 0; i < list->n; i++)
        if (list->value[i] <= 0)
            return false;
    return true;
}

bool mpq_parse_bits(const struct mpq_option_row *row, const char *text, void *field)
{
    (void)row;
    bool *bits = field;
    memset(bits, 0, MPQ_N_BITS * sizeof *bits);
    for (;; text += 2) {
        if (*text < '0' + MPQ_MIN_BITS || *text > '0' + MPQ_MAX_BITS)
            return false;
        bits[*text - '0'] = true;
        if (text[1] != ',')
            return !text[1];
    }
}

bool mpq_parse_size(const struct mpq_option_row *row, const char *text, void *field)
{
    static const struct {
        const char *name;
        double factor;
    } unit[] = {{"", 1},      {"B", 1},      {"k", 1e3},        {"kB", 1e3},       {"K", 1e3},
                {"KB", 1e3},  {"M", 1e6},    {"MB", 1e6},       {"G", 1e9},        {"GB", 1e9},
                {"Ki", 1024}, {"KiB", 1024}, {"Mi", 1048576.0}, {"MiB", 1048576.0}};
    (void)row;
    struct mpq_size *size = field;
    const char *end;
    double value;
    if (!parse_number(text, &end, &value) || value <= 0)
        return false;
    if (strcmp(end, "%") == 0) {
        *size = (struct mpq_size){.share = value / 100};
        return value <= 100;
    }
    for (size_t i = 0; i < MPQ_COUNT(unit); i++)
        if (strcmp(end, unit[i].name) == 0) {
            double bytes = floor(value * unit[i].factor);
            if (bytes < 1 || bytes > (double)INT64_MAX / 2)
                return false;
            *size = (struct mpq_size){.bytes = (uint64_t)bytes};
            return true;
        }
    return false;
}

bool mpq_parse_share(const struct mpq_option_row *row, const char *text, void *field)
{
    (void)row;
    double *share = field;
    const char *end;
    if (!parse_number(text, &end, share) || strcmp(end, "%") != 0 || *share < 0 || *share > 100)
        return false;
    *share /= 100;
    return true;
}

bool mpq_parse_memory(const struct mpq_option_row *row, const char *text, void *field)
{
    struct mpq_size size;
    if (!mpq_parse_size(row, text, &size) || !size.bytes)
        return false;
    *(uint64_t *)field = size.bytes;
    return true;
}

static bool has_label(const struct mpq_sizes *sizes, const char *label)
{
    for (uint32_t i = 0; i < sizes->n; i++)
        if (strcmp(sizes->of[i].label, label) == 0)
            return true;
    return false;
}

/* Sizes joined by commas, each with what it is called in a file name; one that is named twice is
 * one file. */
bool mpq_parse_sizes(const struct mpq_option_row *row, const char *text, void *field)
{
    struct mpq_sizes *sizes = field;
    sizes->n = 0;
    for (;;) {
        struct mpq_labelled_size typed;
        char piece[sizeof typed.label - 4];
        size_t n = strcspn(text, ",");
        if (n >= sizeof piece)
            return false;
        snprintf(piece, sizeof piece, "%.*s", (int)n, text);
        if (!mpq_parse_size(row, piece, &typed.size))
            return false;
        bool is_share = n && piece[n - 1] == '%';
        snprintf(typed.label, sizeof typed.label, "%.*s%s", (int)(is_share ? n - 1 : n), piece,
                 is_share ? "pct" : "");
        if (!has_label(sizes, typed.label)) {
            if (sizes->n == MPQ_MAX_SIZES)
                return false;
            sizes->of[sizes->n++] = typed;
        }
        if (!text[n])
            return true;
        text += n + 1;
    }
}

bool mpq_parse_pareto(const struct mpq_option_row *row, const char *text, void *field)
{
    return mpq_parse_count(row, text, field) && *(int64_t *)field >= 2 &&
           *(int64_t *)field <= MPQ_MAX_SIZES;
}

bool mpq_parse_avg_bits(const struct mpq_option_row *row, const char *text, void *field)
{
    return mpq_parse_scale(row, text, field) && *(double *)field >= MPQ_MIN_BITS &&
           *(double *)field <= MPQ_MAX_BITS;
}

bool mpq_parse_points(const struct mpq_option_row *row, const char *text, void *field)
{
    return mpq_parse_scale(row, text, field) && *(double *)field >= 0.01 && *(double *)field <= 100;
}

bool mpq_parse_bitops(const struct mpq_option_row *row, const char *text, void *field)
{
    static const char units[] = "kMGT";
    (void)row;
    struct mpq_bitops *bitops = field;
    int n = 0;
    *bitops = (struct mpq_bitops){.number = 0};
    if (sscanf(text, "W%1dA%1d%n", &bitops->weight_bits, &bitops->activation_bits, &n) == 2)
        return !text[n] && bitops->weight_bits >= MPQ_MIN_BITS &&
               bitops->weight_bits <= MPQ_MAX_BITS && bitops->activation_bits >= MPQ_MIN_BITS &&
               bitops->activation_bits <= MPQ_MAX_BITS;
    *bitops = (struct mpq_bitops){.number = 0};
    if (!parse_number(text, &text, &bitops->number) || bitops->number <= 0)
        return false;
    if (strcmp(text, "%") == 0) {
        *bitops = (struct mpq_bitops){.share = bitops->number / 100};
        return true;
    }
    const char *unit = *text ? strchr(units, *text) : NULL;
    for (long i = unit ? unit - units : -1; i >= 0; i--)
        bitops->number *= 1000;
    return !text[unit ? 1 : 0] && bitops->number < 1e19;
}

bool mpq_parse_time(const struct mpq_option_row *row, const char *text, void *field)
{
    static const struct {
        const char *name;
        double seconds;
    } unit[] = {{"s", 1}, {"ms", 1e-3}, {"us", 1e-6}};
    (void)row;
    double value;
    if (!parse_number(text, &text, &value) || value <= 0 || value > 1e6)
        return false;
    for (size_t i = 0; i < MPQ_COUNT(unit); i++)
        if (strcmp(text, unit[i].name) == 0) {
            *(double *)field = value * unit[i].seconds;
            return true;
        }
    return false;
}
