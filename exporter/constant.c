#include "exporter/constant.h"

#include <string.h>

/* Elements from which on a Cast that makes floats of them takes less than it saves, and from which
 * on it is worth a node that some readers run; constants of a few bytes may be shared. */
enum { WORTH_A_CAST = 17, WORTH_A_NODE = 64, SHARED_BYTES = 64 };

#define NO_PACK UINT32_MAX

/* Constants that are stored as one tensor, and cut apart along the dimension `axis` of `rank`; the
 * others are 1. */
struct pack {
    int rank, axis;
    size_t n;
    int64_t length;
};

struct packing {
    struct mpq_build *build;
    struct mpq_constant *constant;
    size_t n;
    uint32_t *pack_of; /* [n]; NO_PACK: it is written by itself */
    struct pack *pack;
    uint32_t n_pack;
};

static bool is_exact(const struct mpq_tensor *tensor, enum mpq_dtype dtype)
{
    uint16_t bits;
    struct mpq_tensor narrow = {.dtype = dtype, .data = &bits};
    int64_t n = mpq_shape_count(&tensor->shape);
    for (int64_t i = 0; i < n; i++) {
        double x = mpq_tensor_double(tensor, i);
        mpq_tensor_set_double(&narrow, 0, x);
        if (mpq_tensor_double(&narrow, 0) != x)
            return false;
    }
    return true;
}

/* The type of two bytes that the constant is stored in; UNDEFINED: as it is. */
static enum mpq_dtype short_type(const struct mpq_constant *constant, bool folds)
{
    const struct mpq_tensor *tensor = constant->tensor;
    const enum mpq_dtype type[] = {constant->file_dtype, folds ? MPQ_FLOAT16 : MPQ_UNDEFINED};
    if (tensor->dtype != MPQ_FLOAT ||
        mpq_shape_count(&tensor->shape) < (folds ? WORTH_A_CAST : WORTH_A_NODE))
        return MPQ_UNDEFINED;
    for (size_t i = 0; i < MPQ_COUNT(type); i++)
        if ((type[i] == MPQ_FLOAT16 || type[i] == MPQ_BFLOAT16) && is_exact(tensor, type[i]))
            return type[i];
    return MPQ_UNDEFINED;
}

/* The one dimension that is not 1, or -1. */
static int long_axis(const struct mpq_shape *shape)
{
    int axis = -1;
    for (int d = 0; d < shape->rank; d++)
        if (shape->dim[d] != 1) {
            if (axis >= 0)
                return -1;
            axis = d;
        }
    return axis;
}

static uint32_t pack_for(struct packing *p, int rank, int axis)
{
    uint32_t i = 0;
    while (i < p->n_pack && (p->pack[i].rank != rank || p->pack[i].axis != axis))
        i++;
    if (i == p->n_pack)
        p->pack[p->n_pack++] = (struct pack){.rank = rank, .axis = axis};
    return i;
}

/* One alone needs no cutting. */
static enum mpq_status find_packs(struct packing *p, bool folds)
{
    float pair[2];
    p->pack_of = mpq_arena_alloc(p->build->ctx, p->build->arena, p->n, sizeof *p->pack_of);
    p->pack = mpq_arena_alloc(p->build->ctx, p->build->arena, p->n, sizeof *p->pack);
    if (!p->pack_of || !p->pack)
        return MPQ_E_NOMEM;
    for (size_t i = 0; i < p->n; i++) {
        const struct mpq_tensor *tensor = p->constant[i].tensor;
        int axis = long_axis(&tensor->shape);
        p->pack_of[i] = NO_PACK;
        if (!folds || axis < 0 || mpq_storage_has_two_values(tensor, pair) ||
            short_type(&p->constant[i], folds) != MPQ_FLOAT16)
            continue;
        p->pack_of[i] = pack_for(p, tensor->shape.rank, axis);
        p->pack[p->pack_of[i]].n++;
        p->pack[p->pack_of[i]].length += mpq_shape_count(&tensor->shape);
    }
    for (size_t i = 0; i < p->n; i++)
        if (p->pack_of[i] != NO_PACK && p->pack[p->pack_of[i]].n == 1)
            p->pack_of[i] = NO_PACK;
    return MPQ_OK;
}

/* The elements of a constant into those of `to` from `first` on. */
static void put(const struct mpq_build *build, const struct mpq_tensor *from, struct mpq_tensor *to,
                int64_t first)
{
    int64_t n = build->measured ? 0 : mpq_shape_count(&from->shape);
    for (int64_t i = 0; i < n; i++)
        mpq_tensor_set_double(to, first + i, mpq_tensor_double(from, i));
}

static enum mpq_status write_pack(const struct packing *p, uint32_t at)
{
    struct mpq_build *build = p->build;
    const struct pack *pack = &p->pack[at];
    struct mpq_tensor all = {.dtype = MPQ_FLOAT16, .shape.rank = pack->rank};
    int64_t *length = mpq_arena_alloc(build->ctx, build->arena, pack->n, sizeof *length);
    const char **name = mpq_arena_alloc(build->ctx, build->arena, pack->n, sizeof *name);
    if (!length || !name)
        return MPQ_E_NOMEM;
    for (int d = 0; d < pack->rank; d++)
        all.shape.dim[d] = d == pack->axis ? pack->length : 1;
    if (!build->measured)
        MPQ_TRY(mpq_tensor_alloc(build->ctx, build->arena, all.dtype, &all.shape, &all));
    size_t n = 0;
    int64_t element = 0;
    for (size_t i = 0; i < p->n; i++) {
        if (p->pack_of[i] != at)
            continue;
        name[n] = p->constant[i].name;
        length[n] = mpq_shape_count(&p->constant[i].tensor->shape);
        put(build, p->constant[i].tensor, &all, element);
        element += length[n];
        n++;
    }
    const char *x = MPQ_BUILD_OP(build, "Cast", {mpq_build_constant(build, &all, NULL)},
                                 .attr = "to", .attr_int = MPQ_FLOAT);
    return mpq_build_split_as(build, x, length, n, pack->axis, name) ? MPQ_OK : build->ctx->status;
}

/* One by itself; the name under which it is read. */
static const char *write_one(struct mpq_build *build, struct mpq_storage_program *program,
                             const struct mpq_constant *constant)
{
    const struct mpq_tensor *tensor = constant->tensor;
    float pair[2];
    if (program && mpq_storage_has_two_values(tensor, pair))
        return mpq_storage_two_values(program, tensor, pair, constant->name);
    if (!constant->is_known && tensor->dtype != MPQ_STRING &&
        mpq_tensor_bytes(tensor) <= SHARED_BYTES)
        return mpq_build_shared(build, tensor);
    struct mpq_tensor narrow = {short_type(constant, program != NULL), tensor->shape, NULL};
    if (narrow.dtype == MPQ_UNDEFINED)
        return mpq_build_keep(build, tensor, constant->name);
    if (!build->measured &&
        mpq_tensor_alloc(build->ctx, build->arena, narrow.dtype, &narrow.shape, &narrow) != MPQ_OK)
        return NULL;
    put(build, tensor, &narrow, 0);
    return MPQ_BUILD_OP(build, "Cast", {mpq_build_constant(build, &narrow, NULL)},
                        .out = constant->name, .attr = "to", .attr_int = MPQ_FLOAT);
}

enum mpq_status mpq_constants_write(struct mpq_build *build, struct mpq_storage_program *program,
                                    struct mpq_constant *constant, size_t n)
{
    struct packing p = {.build = build, .constant = constant, .n = n};
    MPQ_TRY(find_packs(&p, program != NULL));
    for (uint32_t i = 0; i < p.n_pack; i++)
        if (p.pack[i].n > 1)
            MPQ_TRY(write_pack(&p, i));
    for (size_t i = 0; i < n; i++) {
        if (p.pack_of[i] == NO_PACK)
            constant[i].name = write_one(build, program, &constant[i]);
        if (!constant[i].name)
            return build->ctx->status;
    }
    return MPQ_OK;
}
