"""A pyro of its own for one test module: daemon, state and socket in a fresh directory, and a check that nothing is left.

Everything is real: the daemon as root, the CLI, QEMU with the built kernel and agent, a registry on loopback.
"""
import contextlib
import hashlib
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "registry"))
import children  # noqa: E402
from oci import free_port  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("PYRO_BUILD", ROOT / "build"))
BIN = BUILD / "bin"
PREPARED = BUILD / "test-environments"  # made once per suite by tests/vm/pyro/prepare.py
WAIT = 120  # seconds: a deadline that only a hang reaches


def processes():
    """Every process's pid, with its arguments and cgroups."""
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if not (entry / "cmdline").read_bytes():
                    continue  # a kernel thread, or dead and only not yet collected by its parent
                text = (entry / "cmdline").read_bytes().replace(b"\0", b" ") + (entry / "cgroup").read_bytes()
                yield int(entry.name), text.decode(errors="replace")


def below(folder):
    """Every path below it, sorted; what vanishes meanwhile is none."""
    return sorted(pathlib.Path(path) / name for path, folders, files in os.walk(folder) for name in folders + files)


class Site:
    def __init__(self, config="", environments=PREPARED / "state", pyrod=None, env=None):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="pyro-", dir="/tmp"))
        self.path.chmod(0o711)
        self.state, self.run_dir, self.socket = self.path / "state", self.path / "run", self.path / "sock"
        self.state.mkdir()
        if environments:
            # cp keeps holes; a copy has other inodes, which makes the daemon look at the content once.
            subprocess.run(["cp", "-a", "--sparse=always", f"{environments}/.", self.state], check=True)
        self.config = self.path / "pyrod.toml"
        self.write_config(config)
        self.pyrod = str(pyrod or BIN / "pyrod")
        self.env = {**os.environ, "PYRO_SOCKET": str(self.socket), **(env or {})}
        self.daemon = None
        self.guests = 0

    def write_config(self, extra):
        # Most tests are about a machine's own boot; those of templates ask for them, and PYRO_TEST_WARM asks for all.
        if "[templates]" not in extra and not os.environ.get("PYRO_TEST_WARM"):
            extra += "\n[templates]\nenabled = false\n"
        self.config.write_text(
            f'state_dir = "{self.state}"\nrun_dir = "{self.run_dir}"\nsocket = "{self.socket}"\nsocket_group = "root"\n{self.top_level(extra)}\n'
            f'[guest]\nkernel = "{BUILD}/guest/vmlinux"\ninitramfs = "{BUILD}/guest/initramfs"\n\n'
            f'[workers]\nimage = "{BIN}/pyro-image"\n\n{self.tables(extra)}')

    @staticmethod
    def top_level(extra):
        return extra.split("[", 1)[0]

    @staticmethod
    def tables(extra):
        return "[" + extra.split("[", 1)[1] if "[" in extra else ""

    # The daemon

    def start(self, env=None):
        ready, write = os.pipe()
        log = open(self.path / "pyrod.log", "ab")
        self.daemon = subprocess.Popen([self.pyrod, "--config", str(self.config), "--ready-fd", str(write)], pass_fds=[write],
                                       stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **(env or {})})
        log.close()
        os.close(write)
        with os.fdopen(ready) as pipe:
            if not select.select([pipe], [], [], WAIT)[0]:
                self.daemon.kill()
            said = pipe.read()
        if said != "ready\n":
            self.daemon.kill()  # one that ended has its own exit status all the same
            raise AssertionError(f"pyrod did not start ({self.daemon.wait()}):\n{self.log()}")
        return self

    def start_again(self):
        """After a test that ended before it did so."""
        if self.daemon is None or self.daemon.poll() is not None:
            self.start()

    def log(self):
        return (self.path / "pyrod.log").read_text(errors="replace")

    def stop(self):
        """An orderly end; counts the guests that were booted."""
        if self.daemon and self.daemon.poll() is None:
            with contextlib.suppress(Exception):
                self.guests += self.call("system.status")["boots"]
            self.daemon.send_signal(signal.SIGTERM)
            code = self.daemon.wait(WAIT)
            assert code == 0, f"pyrod ended with {code}:\n{self.log()}"
        self.daemon = None

    def kill(self):
        """The daemon dies as by the OOM killer."""
        with contextlib.suppress(Exception):
            self.guests += self.call("system.status")["boots"]
        self.daemon.kill()
        self.daemon.wait(WAIT)
        self.daemon = None

    def close(self):
        """Ends the site and fails if anything of it is left."""
        try:
            self.stop()
            self.check_leaks()
        finally:
            if self.daemon:
                self.daemon.kill()
                self.daemon.wait()
            for pid in self.own_processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with open(BUILD / "guests-booted", "a") as count:
                count.write(f"{self.guests}\n")
            shutil.rmtree(self.path, ignore_errors=True)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.close()

    # What it leaves

    def own_processes(self):
        """By their arguments, or by the cgroup of this daemon's instance: QEMU's arguments name no file of the site."""
        mark = f"pyro-{hashlib.sha256(str(self.state.resolve()).encode()).hexdigest()[:8]}"
        return [pid for pid, text in processes() if (str(self.path) in text or mark in text) and pid != os.getpid()]

    def vm_processes(self):
        """The pids of this site's QEMUs, by the daemon's own records."""
        with contextlib.closing(sqlite3.connect(self.run_dir / "run.db")) as db:
            return [pid for (pid,) in db.execute("SELECT pid FROM machines WHERE pid != 0")]

    def leases(self):
        """Who has a uid: machines by their ids, and the guests of the daemon's own, which have no record."""
        with contextlib.closing(sqlite3.connect(self.run_dir / "run.db")) as db:
            every = {id for (id,) in db.execute("SELECT machine_id FROM uid_leases WHERE machine_id != ''")}
            return every, every - {id for (id,) in db.execute("SELECT id FROM machines")}

    def files(self):
        """Files and directories that only a living guest or pull may have."""
        return [p for folder in (self.run_dir / "vm", self.state / "vm", self.state / "ingest") for p in below(folder)]

    def leftovers(self):
        """The same without those of spares and of guests that are to be templates: a living daemon may have such."""
        files = self.files()
        own = self.leases()[1] if files else set()  # nobody's meanwhile, somebody's before: asked after the files were seen
        return [str(p.relative_to(self.path)) for p in files if not own & set(p.relative_to(self.path).parts + (p.name.split(".")[0],))]

    def check_leaks(self):
        processes_left = self.own_processes()
        assert not processes_left, f"processes left: {[c for p, c in processes() if p in processes_left]}"
        assert not self.files(), f"files left: {self.files()}"

    def fds(self):
        return len(os.listdir(f"/proc/{self.daemon.pid}/fd"))

    # Clients

    def pyro(self, *args, check=False, timeout=WAIT, **kwargs):
        kwargs.setdefault("stdin", subprocess.DEVNULL)
        if "input" in kwargs:
            del kwargs["stdin"]
        done = subprocess.run([BIN / "pyro", *args], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout,
                              **children.reachable(BIN / "pyro", kwargs))
        if check:
            assert done.returncode == 0, f"pyro {args}: {done.returncode}\n{done.stdout.decode(errors='replace')}\n{done.stderr.decode(errors='replace')}"
        return done

    def popen(self, *args, **kwargs):
        kwargs.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen([BIN / "pyro", *args], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                **children.reachable(BIN / "pyro", kwargs))

    def json(self, *args, code=0, **kwargs):
        done = self.pyro(*args, "--json", **kwargs) if "--" not in args else self.pyro(
            *args[:args.index("--")], "--json", *args[args.index("--"):], **kwargs)
        assert done.returncode == code, f"pyro {args}: {done.returncode}\n{done.stdout.decode()}\n{done.stderr.decode()}"
        return json.loads(done.stdout)

    def connect(self):
        return Client(self.socket)

    def call(self, method, **params):
        with self.connect() as client:
            return client.call(method, **params)

    def until(self, condition, what):
        """For conditions of other processes that send no event to a test: asked again until they hold."""
        deadline = time.monotonic() + WAIT
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise AssertionError(f"never happened: {what}\n{self.log()}")
            time.sleep(0.02)
        return value


class RpcError(Exception):
    def __init__(self, error):
        super().__init__(f"{error.get('message')} {error.get('data')}")
        self.error = error
        self.code = error.get("data", {}).get("code")


class Client:
    """The wire as a script would speak it."""

    def __init__(self, path):
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(WAIT)
        self.socket.connect(self.path)
        self.file = self.socket.makefile("rb")
        self.next_id = 0
        self.notifications = []
        self.call("rpc.hello", version="0.1.0", features=[])

    def send(self, method, **params):
        self.next_id += 1
        self.socket.sendall(json.dumps({"jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params}).encode() + b"\n")
        return self.next_id

    def notify(self, method, **params):
        self.socket.sendall(json.dumps({"jsonrpc": "2.0", "method": method, "params": params}).encode() + b"\n")

    def receive(self):
        line = self.file.readline()
        if not line:
            raise EOFError("the daemon closed the connection")
        return json.loads(line)

    def result(self, request):
        while True:
            message = self.receive()
            if message.get("id") == request and ("result" in message or "error" in message):
                if "error" in message:
                    raise RpcError(message["error"])
                return message["result"]
            self.notifications.append(message)

    def call(self, method, **params):
        return self.result(self.send(method, **params))

    def wait_for(self, method):
        while True:
            message = self.receive()
            if message.get("method") == method:
                return message["params"]
            assert "error" not in message, message

    def attach(self, ticket):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(WAIT)
        s.connect(self.path)
        s.sendall(json.dumps({"attach": ticket}).encode() + b"\n")
        file = s.makefile("rb")
        answer = json.loads(file.readline())
        if "error" in answer:
            s.close()
            raise RpcError(answer["error"])
        return s, file

    def close(self):
        self.file.close()
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


PORT = free_port()  # of this module's registry


def registry_config():
    """The official images come from the registry below."""
    return f'[mirror]\n"docker.io" = "http://127.0.0.1:{PORT}"\n[registry."127.0.0.1:{PORT}"]\nplain_http = true\nallow_private = true\n'


@contextlib.contextmanager
def registry(storage=PREPARED / "registry"):
    """A real registry on loopback, with the images prepare.py pushed."""
    with tempfile.TemporaryDirectory(prefix="pyro-registry-") as work:
        config = pathlib.Path(work) / "registry.yml"
        config.write_text(f"version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {storage}}}\n"
                          f"http:\n  addr: 127.0.0.1:{PORT}\n  secret: test\n")
        process = subprocess.Popen(["docker-registry", "serve", config], env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
                                   stdout=subprocess.DEVNULL, stderr=open(pathlib.Path(work) / "log", "wb"))
        try:
            deadline = time.monotonic() + WAIT
            while True:
                try:
                    socket.create_connection(("127.0.0.1", PORT), 1).close()
                    break
                except OSError:
                    assert process.poll() is None, (pathlib.Path(work) / "log").read_text()
                    assert time.monotonic() < deadline, "the registry does not answer"
                    time.sleep(0.05)
            yield f"127.0.0.1:{PORT}"
        finally:
            process.kill()
            process.wait()
