/* What ending a tree costs at least: a subreaper that kills its children, reaps them, and repeats until it has none.
 *
 *   kill_and_reap COMMAND [ARG...]   runs it; on SIGTERM ends it, and then all that it left
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static char list[1 << 20];

int main(int argc, char **argv)
{
    sigset_t asked;
    int number;
    char path[64];
    sigemptyset(&asked);
    sigaddset(&asked, SIGTERM);
    if (argc < 2 || sigprocmask(SIG_BLOCK, &asked, NULL) || prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
        return 1;
    pid_t leader = fork();
    if (leader < 0)
        return 1;
    if (!leader) {
        sigprocmask(SIG_UNBLOCK, &asked, NULL);
        execvp(argv[1], argv + 1);
        _exit(127);
    }
    sigwait(&asked, &number);
    kill(leader, SIGTERM);
    waitpid(leader, NULL, 0);
    snprintf(path, sizeof path, "/proc/self/task/%d/children", getpid());
    for (;;) {
        int fd = open(path, O_RDONLY);
        ssize_t length = 0, more;
        if (fd < 0)
            return 1;
        while ((more = read(fd, list + length, sizeof list - 1 - length)) > 0)
            length += more;
        close(fd);
        list[length] = 0;
        for (char *at = list, *end; (number = strtol(at, &end, 10)) > 0; at = end)
            kill(number, SIGKILL);
        /* One at least, if there is any; then those that are dead already. */
        if (waitpid(-1, NULL, 0) < 0)
            return 0;
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
    }
}
