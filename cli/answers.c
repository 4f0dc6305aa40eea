#include "cli/answers.h"

#include <string.h>

enum mpq_status mpq_answers_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   struct mpq_tensor *const *output, uint32_t n_output,
                                   uint32_t batch, uint32_t n, size_t max_bytes,
                                   struct mpq_answers **out)
{
    struct mpq_answers *a = mpq_arena_alloc(ctx, arena, 1, sizeof *a);
    if (!a)
        return MPQ_E_NOMEM;
    *a = (struct mpq_answers){.n_room = n, .n_output = n_output};
    a->n_element = mpq_arena_alloc(ctx, arena, n_output, sizeof *a->n_element);
    a->output = mpq_arena_alloc(ctx, arena, n_output, sizeof(mpq_real *));
    a->input_id = mpq_arena_alloc(ctx, arena, n, sizeof *a->input_id);
    if (!a->n_element || !a->output || !a->input_id)
        return MPQ_E_NOMEM;
    *out = NULL;
    size_t bytes = 0;
    for (uint32_t i = 0; i < n_output; i++) {
        a->n_element[i] = (size_t)mpq_shape_count(&output[i]->shape) / batch;
        bytes += a->n_element[i] * n * sizeof(mpq_real);
    }
    if (bytes > max_bytes)
        return MPQ_OK;
    for (uint32_t i = 0; i < n_output; i++) {
        a->output[i] = mpq_arena_alloc(ctx, arena, a->n_element[i] * n, sizeof(mpq_real));
        if (!a->output[i])
            return MPQ_E_NOMEM;
    }
    *out = a;
    return MPQ_OK;
}

/* Of n_byte bytes: four strands of eight at a time, none of which waits for another. */
static uint64_t mix(uint64_t hash, const uint8_t *data, size_t n_byte)
{
    enum { STRANDS = 4, BLOCK = STRANDS * sizeof hash };
    uint64_t strand[STRANDS], word[STRANDS];
    for (int s = 0; s < STRANDS; s++)
        strand[s] = hash + (uint64_t)s;
    for (size_t i = 0; i < n_byte; i += BLOCK) {
        size_t left = n_byte - i;
        if (left < BLOCK)
            memset(word, 0, sizeof word);
        memcpy(word, data + i, left < BLOCK ? left : BLOCK);
        for (int s = 0; s < STRANDS; s++) {
            strand[s] = (strand[s] ^ word[s]) * 0x9e3779b97f4a7c15u;
            strand[s] ^= strand[s] >> 29;
        }
    }
    hash = n_byte;
    for (int s = 0; s < STRANDS; s++) {
        hash = (hash ^ strand[s]) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 29;
    }
    return hash;
}

/* Of sample i of the batch; an input that does not grow with it belongs to each. */
static uint64_t input_id(struct mpq_tensor *const *input, uint32_t n_input, uint32_t batch,
                         uint32_t i)
{
    uint64_t hash = n_input;
    for (uint32_t k = 0; k < n_input; k++) {
        size_t all = mpq_tensor_bytes(input[k]);
        bool is_shared = mpq_shape_count(&input[k]->shape) % batch != 0;
        size_t one = is_shared ? all : all / batch;
        hash = mix(hash, (const uint8_t *)input[k]->data + (is_shared ? 0 : i * one), one);
    }
    return hash;
}

bool mpq_answers_know(const struct mpq_answers *a, struct mpq_tensor *const *input,
                      uint32_t n_input, uint32_t batch, uint32_t first, uint32_t n)
{
    bool is_known = a && first + n <= a->n_sample;
    for (uint32_t i = 0; is_known && i < n; i++)
        is_known = input_id(input, n_input, batch, i) == a->input_id[first + i];
    return is_known;
}

void mpq_answers_keep(struct mpq_answers *a, struct mpq_tensor *const *input, uint32_t n_input,
                      struct mpq_tensor *const *output, uint32_t batch, uint32_t first, uint32_t n)
{
    MPQ_ASSERT(first + n <= a->n_room && first <= a->n_sample);
    for (uint32_t i = 0; i < n; i++)
        a->input_id[first + i] = input_id(input, n_input, batch, i);
    for (uint32_t i = 0; i < a->n_output; i++)
        if (output[i]->dtype == MPQ_FLOAT)
            memcpy(a->output[i] + first * a->n_element[i], output[i]->data,
                   n * a->n_element[i] * sizeof(mpq_real));
    if (first + n > a->n_sample)
        a->n_sample = first + n;
}
