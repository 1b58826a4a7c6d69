"""The program under test: as a process, and on a terminal."""
import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import unittest

from fake_pyrod import WAIT

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "support"))
import children  # noqa: E402

PYRO = os.environ["PYRO"]


def environment(daemon, **more):
    return {"PATH": os.environ["PATH"], "PYRO_SOCKET": daemon.path if daemon else "/nonexistent/s", "HOME": "/", "TERM": "xterm", "TZ": "UTC", **more}


def pyro(daemon, *args, stdin=b"", env=None, **more):
    return subprocess.run([PYRO, *args], input=stdin, capture_output=True, env=environment(daemon, **(env or {})), timeout=WAIT,
                          **children.reachable(PYRO, more))


def start(case, daemon, *args):
    return children.ends_with(case, subprocess.Popen([PYRO, *args], env=environment(daemon), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE))


class OnTerminal(unittest.TestCase):
    """pyro on a pseudo-terminal of its own."""

    def start(self, daemon, *args):
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execve(PYRO, [PYRO, *args], environment(daemon))
        self.process = os.pidfd_open(self.pid)
        self.addCleanup(self.end, self.pid, self.process, self.master)

    def end(self, pid, process, master):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # collected already
            os.waitpid(pid, 0)
        os.close(process)
        os.close(master)

    def read_until(self, text):
        seen = b""
        while text not in seen:
            ready, _, _ = select.select([self.master], [], [], WAIT)
            self.assertTrue(ready, seen)
            try:
                data = os.read(self.master, 4096)
            except OSError:  # the other side has gone
                data = b""
            if not data:
                break
            seen += data
        self.assertIn(text, seen)
        return seen

    def ended(self):
        self.assertTrue(select.select([self.process], [], [], WAIT)[0], "it goes on")
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def is_raw(self):
        return not termios.tcgetattr(self.master)[3] & termios.ICANON
