"""Processes that a test starts end with it, however it ends: one that stays would hold the output ctest waits for."""
import functools
import os
import threading

WAIT = 120  # seconds: a deadline that only a hang reaches


def ends_with(case, process):
    """Makes the end of that subprocess.Popen sure, by the test's at the latest; one that hangs is ended after WAIT, and said
    by its exit status. Returns it."""
    timer = threading.Timer(WAIT, process.kill)
    timer.daemon = True
    timer.start()

    def end():
        timer.cancel()
        process.kill()  # no signal is sent to one that was collected
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()
    case.addCleanup(end)
    return process


@functools.cache
def opened(program):
    return os.open(program, os.O_PATH)


def reachable(program, options):
    """The options of subprocess that run the program, also for a user to whom the way to it is closed: a checkout in a home directory."""
    if "user" not in options:
        return options
    return {**options, "executable": f"/proc/self/fd/{opened(program)}", "pass_fds": [opened(program)]}
