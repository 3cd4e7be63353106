/* A harness that leaves processes behind.
 *
 *   brood N end|ignore|plain [hop]   N children that sleep. Each in a session of its own, and ended by SIGTERM or not; or
 *                                    plain: in ours. With hop one more that forks on and on: the child goes on in a new
 *                                    session, the parent ends.
 *
 * Prints the pids of the N, a line each, then "ready", and sleeps until it is ended.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Not for ever: whoever is to end it may be killed, and a storm of forks takes the machine with it. */
static void hop(void)
{
    for (time_t end = time(NULL) + 60; time(NULL) < end;) {
        pid_t child = fork();
        if (child > 0)
            _exit(0);
        if (!child)
            setsid();
    }
    _exit(0);
}

int main(int argc, char **argv)
{
    int made[2], count = argc > 2 ? atoi(argv[1]) : 0;
    char byte = 0;
    if (count < 1 || pipe(made))
        return 1;
    if (!strcmp(argv[2], "ignore"))
        signal(SIGTERM, SIG_IGN);
    for (int n = 0; n < count; n++) {
        pid_t child = fork();
        if (child < 0)
            return 1;
        if (!child) {
            if (strcmp(argv[2], "plain"))
                setsid();
            if (write(made[1], &byte, 1) != 1)
                _exit(1);
            close(made[0]);
            close(made[1]);
            close(1);
            for (;;)
                pause();
        }
        printf("%d\n", child);
    }
    for (int n = 0; n < count; n++)
        if (read(made[0], &byte, 1) != 1)
            return 1;
    fflush(stdout);
    if (argc > 3 && !fork())
        hop();
    signal(SIGTERM, SIG_DFL);
    puts("ready");
    fflush(stdout);
    for (;;)
        pause();
}
