#include "quantcore/ir/attr.h"

#include <string.h>

const struct mpq_attr *mpq_attr_find(const struct mpq_attr_set *set, const char *name)
{
    for (size_t i = 0; i < set->n; i++)
        if (strcmp(set->attr[i].name, name) == 0)
            return &set->attr[i];
    return NULL;
}

static const struct mpq_attr *find_kind(const struct mpq_attr_set *set, const char *name,
                                        enum mpq_attr_kind kind)
{
    const struct mpq_attr *attr = mpq_attr_find(set, name);
    return attr && attr->kind == kind ? attr : NULL;
}

int64_t mpq_attr_int(const struct mpq_attr_set *set, const char *name, int64_t absent)
{
    const struct mpq_attr *attr = find_kind(set, name, MPQ_ATTR_INT);
    return attr ? attr->i : absent;
}

float mpq_attr_float(const struct mpq_attr_set *set, const char *name, float absent)
{
    const struct mpq_attr *attr = find_kind(set, name, MPQ_ATTR_FLOAT);
    return attr ? attr->f : absent;
}

const char *mpq_attr_string(const struct mpq_attr_set *set, const char *name, const char *absent)
{
    const struct mpq_attr *attr = find_kind(set, name, MPQ_ATTR_STRING);
    return attr ? attr->s : absent;
}

const int64_t *mpq_attr_ints(const struct mpq_attr_set *set, const char *name, size_t *out_n)
{
    const struct mpq_attr *attr = find_kind(set, name, MPQ_ATTR_INTS);
    *out_n = attr ? attr->n : 0;
    return attr ? attr->ints : NULL;
}

enum mpq_status mpq_attr_set_without(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                     const struct mpq_attr_set *set, const char *name,
                                     struct mpq_attr_set *out)
{
    struct mpq_attr *attr = mpq_arena_alloc(ctx, arena, set->n + 1, sizeof *attr);
    if (!attr)
        return MPQ_E_NOMEM;
    size_t n = 0;
    for (size_t i = 0; i < set->n; i++)
        if (strcmp(set->attr[i].name, name) != 0)
            attr[n++] = set->attr[i];
    *out = (struct mpq_attr_set){n, attr};
    return MPQ_OK;
}

enum mpq_status mpq_attr_set_with(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_attr_set *set, const struct mpq_attr *attr,
                                  struct mpq_attr_set *out)
{
    struct mpq_attr *copy = mpq_arena_alloc(ctx, arena, set->n + 1, sizeof *copy);
    if (!copy)
        return MPQ_E_NOMEM;
    size_t n = 0, at = set->n;
    for (; n < set->n; n++) {
        copy[n] = set->attr[n];
        if (strcmp(copy[n].name, attr->name) == 0)
            at = n;
    }
    copy[at] = *attr;
    *out = (struct mpq_attr_set){at == set->n ? n + 1 : n, copy};
    return MPQ_OK;
}
