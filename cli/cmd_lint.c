/* onnx-mpq lint: what runtimes make of a quantized file, one line a finding. */
#include <stdio.h>

#include "cli/command.h"
#include "importer/import.h"
#include "quantcore/pass/lint.h"

/* "file: error L4: node 'relu' (Relu): pattern (detail): effect (versions); remedy" */
static void print_finding(const char *path, const struct mpq_finding *finding)
{
    const struct mpq_lint_rule *rule = finding->rule;
    printf("%s: %s %s: ", path, mpq_severity_name(rule->severity), rule->id);
    if (finding->node)
        printf("%s: ", finding->node);
    fputs(rule->pattern, stdout);
    if (finding->detail)
        printf(rule->effect ? " (%s)" : ": %s", finding->detail);
    if (rule->effect)
        printf(": %s", rule->effect);
    if (rule->versions)
        printf(" (%s)", rule->versions);
    if (rule->remedy)
        printf("; %s", rule->remedy);
    putchar('\n');
}

enum mpq_status mpq_cmd_lint(struct mpq_ctx *ctx, struct mpq_arena *arena,
                             const struct mpq_options *options)
{
    struct mpq_graph *graph;
    struct mpq_findings findings;
    size_t file_bytes;
    MPQ_TRY(mpq_import_file(ctx, arena, options->model, &graph, &file_bytes));
    struct mpq_import_versions versions = mpq_import_versions_of(graph);
    struct mpq_lint_file file = {graph, versions.ir_version, versions.opset,
                                 options->reader ? options->reader->readers : MPQ_FOR_ALL,
                                 versions.has_functions};
    MPQ_TRY(mpq_lint(ctx, arena, &file, &findings));
    for (int severity = MPQ_ERROR; severity >= MPQ_NOTE; severity--)
        for (uint32_t i = 0; i < findings.n; i++)
            if ((int)findings.at[i].rule->severity == severity &&
                (severity > MPQ_NOTE || !options->quiet))
                print_finding(options->model, &findings.at[i]);
    uint32_t n = findings.count[MPQ_ERROR];
    if (!n)
        return MPQ_OK;
    return mpq_fail(ctx, MPQ_E_LINT, "%s: %u error%s, %u warning%s", options->model, n,
                    n == 1 ? "" : "s", findings.count[MPQ_WARNING],
                    findings.count[MPQ_WARNING] == 1 ? "" : "s");
}
