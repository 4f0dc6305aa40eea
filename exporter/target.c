#include "exporter/target.h"

#include <string.h>

static const struct mpq_target target[] = {
#include "exporter/target_list.inc"
};

size_t mpq_target_count(void)
{
    return MPQ_COUNT(target);
}

const struct mpq_target *mpq_target_at(size_t i)
{
    MPQ_ASSERT(i < MPQ_COUNT(target));
    return &target[i];
}

const struct mpq_target *mpq_target_find(const char *name)
{
    for (size_t i = 0; i < MPQ_COUNT(target); i++)
        if (strcmp(target[i].name, name) == 0)
            return &target[i];
    return NULL;
}

uint16_t mpq_target_integer_widths(const struct mpq_target *t)
{
    unsigned mask = 0;
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS && !t->folds; b++)
        if (t->container[b] != MPQ_INT8)
            mask |= 1u << b;
    return (uint16_t)mask;
}

enum mpq_dtype mpq_target_container(const struct mpq_target *t, int bits, bool has_quantized_input,
                                    int64_t last_dim)
{
    bool is_l1 = has_quantized_input, is_l5 = last_dim % 4 != 0;
    return t->container[bits] == MPQ_INT2 && (is_l1 || is_l5) ? MPQ_INT4 : t->container[bits];
}

int64_t mpq_target_opset_of(enum mpq_dtype dtype)
{
    return mpq_compat_opset_of(dtype);
}

int64_t mpq_target_ir_version_of(int64_t opset)
{
    return mpq_compat_ir_version_of(opset);
}
