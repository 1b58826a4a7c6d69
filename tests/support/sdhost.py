"""A pseudo-host: a real systemd in namespaces of its own, in which packages can be installed and services run."""
import contextlib
import ctypes
import os
import pathlib
import signal
import subprocess
import tempfile
import time

WAIT = 120  # seconds: a deadline that only a hang reaches
SCRIPT = pathlib.Path(__file__).resolve().parent / "sdhost"


def die_with_us():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: kept across exec


def why_not():
    """Why none can be made here; empty where it can."""
    if os.geteuid() != 0:
        return "a pseudo-host takes root"
    if not os.path.exists("/lib/systemd/systemd"):
        return "systemd is not installed"
    done = subprocess.run(["unshare", "--mount", "--pid", "--fork", "--cgroup", "--net", "true"], stderr=subprocess.PIPE)
    return "" if done.returncode == 0 else f"namespaces cannot be made here: {done.stderr.decode().strip()}"


class SdHost:
    def __init__(self, *shown):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="sdhost-", dir="/tmp"))
        self.log = open(self.path / "log", "wb")
        self.unshare = subprocess.Popen([SCRIPT, f"pyro-{os.getpid()}", self.path, *shown], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                        start_new_session=True, preexec_fn=die_with_us)
        try:
            self.pid = self.until(self.find_systemd, "systemd starts")
            self.until(lambda: self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded"), "systemd is up")
        except BaseException:
            self.close()
            raise

    def find_systemd(self):
        assert self.unshare.poll() is None, (self.path / "log").read_text(errors="replace")
        children = pathlib.Path(f"/proc/{self.unshare.pid}/task/{self.unshare.pid}/children").read_text().split()
        for pid in children:
            with contextlib.suppress(OSError):
                if pathlib.Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                    return int(pid)
        return None

    def inside(self, *command):
        return ["nsenter", "-t", str(self.pid), "-m", "-p", "-n", "-u", "-i", "-C", "--", *map(str, command)]

    def run(self, *command, check=True, **options):
        done = subprocess.run(self.inside(*command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=WAIT, **options)
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def write(self, path, text):
        """A file of the pseudo-host."""
        subprocess.run(self.inside("sh", "-c", 'mkdir -p "$(dirname "$1")" && cat > "$1"', "sh", path), input=text.encode(), check=True)

    def until(self, condition, what):
        """For conditions of other processes that send no event to a test: asked again until they hold."""
        deadline = time.monotonic() + WAIT
        while not (value := condition()):
            assert time.monotonic() < deadline, f"never happened: {what}\n{(self.path / 'log').read_text(errors='replace')}"
            time.sleep(0.05)
        return value

    def close(self):
        """Everything in it ends with its PID 1, which ends with `unshare`."""
        self.unshare.kill()
        self.unshare.wait()
        self.log.close()
        groups = (self.path / "cgroups").read_text().split() if (self.path / "cgroups").exists() else []
        for group in groups:
            folders = [pathlib.Path(folder) for folder, _, _ in os.walk(group, topdown=False)]
            for folder in folders:
                self.until(lambda folder=folder: self.removed(folder), f"{folder} is empty")
        for path in (self.path / "t", self.path):
            with contextlib.suppress(OSError):
                path.rmdir()
        subprocess.run(["rm", "-rf", self.path], check=True)

    @staticmethod
    def removed(folder):
        with contextlib.suppress(OSError):
            folder.rmdir()
        return not folder.exists()
