#include "cli/version.h"

#include "exporter/report_csv.h"
#include "quantcore/base/ctx.h"
#include "quantcore/ops/kernel/gemm.h"

/* MPQ_BUILT_WITH_*: of the headers found at build, by CMake. */
struct mpq_version mpq_version_at(size_t i)
{
    const struct mpq_version version[] = {
        {"onnx-mpq", MPQ_VERSION},           {"protobuf-c", MPQ_BUILT_WITH_PROTOBUF_C},
        {"BLAS", mpq_gemm_library()},        {"libcsv", mpq_report_csv_library()},
        {"libzip", MPQ_BUILT_WITH_LIBZIP},   {"libpng", MPQ_BUILT_WITH_LIBPNG},
        {"libjpeg", MPQ_BUILT_WITH_LIBJPEG},
    };
    return i < MPQ_COUNT(version) ? version[i] : (struct mpq_version){NULL, NULL};
}

size_t mpq_version_count(void)
{
    size_t n = 0;
    while (mpq_version_at(n).name)
        n++;
    return n;
}
