"""Processes that a test starts end with it, however it ends: one that stays would hold the output ctest waits for."""
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
