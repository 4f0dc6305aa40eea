#include <stdlib.h>
#include <unistd.h>

#include "cli/command.h"

/* Threads of OpenMP that wait for work spin, unless the environment says otherwise. On a machine
 * that is busy with something else they take the time of those that work, and a run takes many
 * times as long. libgomp reads the environment when it is loaded, before main(), so the program has
 * to start once more. The variable it then finds keeps it from doing so again. */
static void let_idle_threads_sleep(char **argv)
{
    char path[4096]; /* exec of the link itself would show the process as "exe" */
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT"))
        return;
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n <= 0 || setenv("OMP_WAIT_POLICY", "passive", 1) != 0)
        return;
    path[n] = '\0';
    execv(path, argv); /* returns where it fails: then they spin */
}

int main(int argc, char **argv)
{
    let_idle_threads_sleep(argv);
    return mpq_main(argc - 1, argv + 1);
}
