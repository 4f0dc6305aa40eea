#include "cli/recipe.h"

static const struct mpq_recipe recipe[] = {
    {{{"data", mpq_pipeline_data},
      {"calibrate", mpq_pipeline_calibrate},
      {"prepare", mpq_pipeline_prepare},
      {"tune", mpq_pipeline_tune},
      {"search", mpq_pipeline_search}}},
    {{{"data", mpq_pipeline_data},
      {"prepare", mpq_paper_prepare_stage},
      {"train", mpq_paper_train_stage},
      {"search", mpq_paper_search_stage},
      {"fold", mpq_paper_fold_stage}}},
};

const struct mpq_recipe *mpq_recipe_at(int i)
{
    MPQ_ASSERT(i >= 0 && (size_t)i < MPQ_COUNT(recipe));
    return &recipe[i];
}
