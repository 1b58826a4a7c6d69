"""Processes that a test starts end with it, however it ends: one that stays would hold the output ctest waits for."""
import functools
import json
import os
import threading
import traceback

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


def as_uid(case, uid, act, groups=()):
    """What `act` returns, done by a process of that uid and group without privileges; what it throws fails the test."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            os.setgroups(list(groups))
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            said = {"value": act()}
        except BaseException:
            said = {"error": traceback.format_exc()}
        with os.fdopen(write, "w") as pipe:
            json.dump(said, pipe)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = json.load(pipe)
    os.waitpid(pid, 0)
    if "error" in said:
        case.fail(said["error"])
    return said["value"]
