/* Recipes: ways from a model and its data to codes. What a recipe does is its list of stages, which
 * cmd_convert.c runs in order between opening the model and exporting it. To add one, write
 * recipe_<name>.c, a row in recipe.c and a word of --recipe in option_table.c, in the same order.
 */
#ifndef MPQ_CLI_RECIPE_H
#define MPQ_CLI_RECIPE_H

#include "cli/pipeline.h"

struct mpq_recipe {
    struct mpq_recipe_stage {
        const char *name; /* NULL: there are no more */
        enum mpq_status (*run)(struct mpq_ctx *ctx, struct mpq_pipeline *p);
    } stage[8];
};

/* By position among the words of --recipe. */
const struct mpq_recipe *mpq_recipe_at(int i);

/* The stages of the published method: see recipe_paper.c. */
enum mpq_status mpq_paper_prepare_stage(struct mpq_ctx *ctx, struct mpq_pipeline *p) MPQ_CHECKED;
enum mpq_status mpq_paper_train_stage(struct mpq_ctx *ctx, struct mpq_pipeline *p) MPQ_CHECKED;
enum mpq_status mpq_paper_search_stage(struct mpq_ctx *ctx, struct mpq_pipeline *p) MPQ_CHECKED;
enum mpq_status mpq_paper_fold_stage(struct mpq_ctx *ctx, struct mpq_pipeline *p) MPQ_CHECKED;

/* In the place of mpq_pipeline_refine(): round the net that folding left for its widths, and keep
 * that where it helps on the decide part, whose pictures are changed as in training. */
enum mpq_status mpq_paper_refine_stage(struct mpq_ctx *ctx, struct mpq_pipeline *p) MPQ_CHECKED;

#endif
