/* What a probe of a lock file costs at least: open, flock, fstat, close for every file of a directory.
 *
 *   probe DIRECTORY          leaves the files
 *   probe DIRECTORY unlink   removes each under its lock
 *   probe DIRECTORY hold     takes all locks, says "ready", keeps them until stdin ends
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    const char *mode = argc > 2 ? argv[2] : "";
    int hold = !strcmp(mode, "hold"), remove = !strcmp(mode, "unlink");
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit))
        return 1;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit))
        return 1;
    DIR *directory = argc > 1 ? opendir(argv[1]) : NULL;
    if (!directory)
        return 1;
    long files = 0, held = 0;
    struct dirent *entry;
    while ((entry = readdir(directory))) {
        struct stat status;
        if (entry->d_name[0] == '.')
            continue;
        int fd = openat(dirfd(directory), entry->d_name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
            return 1;
        if (flock(fd, LOCK_EX | LOCK_NB))
            held++;
        if (fstat(fd, &status))
            return 1;
        if (remove && unlinkat(dirfd(directory), entry->d_name, 0))
            return 1;
        if (!hold)
            close(fd);
        files++;
    }
    printf("%ld files, %ld held\n", files, held);
    if (hold) {
        puts("ready");
        fflush(stdout);
        char byte;
        while (read(0, &byte, 1) > 0)
            ;
    }
    return 0;
}
