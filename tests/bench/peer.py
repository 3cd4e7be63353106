"""The guard's job as a Python program does it: own session, parent-death signal, lock, deadline, signal handlers.

    peer.py LOCK SECONDS COMMAND [ARG...]

It is the yardstick of the benchmark, kept as lean as such a program gets: only modules that it needs, no logging.
"""

import ctypes
import fcntl
import os
import signal
import subprocess
import sys

PR_SET_PDEATHSIG = 1
GRACE = 30


def stop(number, _frame):
    raise SystemExit(142 if number == signal.SIGALRM else 128 + number)


def main():
    path, seconds, command = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise SystemExit(125)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, stop)
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    child = subprocess.Popen(command, start_new_session=True)
    signal.alarm(seconds)
    try:
        return child.wait()
    finally:
        signal.alarm(0)
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)
            try:
                child.wait(GRACE)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


sys.exit(main())
