#!/usr/bin/env python3
"""The floor: what the QEMU way costs by hand, with nothing of pyro in it.

vm_floor.py KERNEL ROOT.ext4 [-n RUNS] [-m MIB] [-c 'git --version'] [--cold | --bare]

Boots KERNEL (vmlinux or bzImage of guest-kernel.config) with a tiny static agent (guest-init.c, built here with cc) on a qcow2
overlay of ROOT.ext4, warms it, saves it, and restores it RUNS times, each clone jailed as nobody: no capabilities, no_new_privs,
seccomp, files only as inherited fds, RAM as a private mapping of a write-sealed memfd. Prints seconds for each step and medians.
Needs root, qemu-system-x86, qemu-utils, util-linux (setpriv), cpio, a C compiler with static libc. Emulation unless ACCEL=kvm.
"""
import argparse, fcntl, json, os, re, shutil, socket, statistics, subprocess, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
ACCEL = os.environ.get("ACCEL", "tcg,tb-size=64")
CPU = os.environ.get("CPU", "max,la57=off" if ACCEL.startswith("tcg") else "host,-arch-capabilities")
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


def tsc_khz():
    return int(float(re.search(r"cpu MHz\s*:\s*([\d.]+)", open("/proc/cpuinfo").read()).group(1)) * 1000)


class Vm:
    """One QEMU: QMP and the agent's channel on sockets bound here and passed as fds."""

    def __init__(self, work, kernel, mib, ram, share, disk, pass_fds=(), prefix=(), extra=(), bare=False):
        self.started = time.time()
        self.listeners = [self._listen(f"{work}/{name}") for name in ("qmp", "agent")]
        qmp_fd, agent_fd = (s.fileno() for s in self.listeners)
        argv = [*prefix, "qemu-system-x86_64", "-accel", ACCEL, "-cpu", CPU, "-M", "microvm,acpi=off,memory-backend=mem", "-m", str(mib),
                "-object", f"memory-backend-file,id=mem,size={mib}M,mem-path={ram},share={share}", "-smp", "1",
                "-kernel", kernel, "-initrd", f"{work}/initramfs", "-append", f"console=ttyS0 quiet reboot=t panic=-1 tsc_early_khz={tsc_khz()}{' bare' if bare else ''}",
                "-nodefaults", "-no-user-config", "-display", "none", "-serial", "null", "-no-reboot", "-sandbox", SANDBOX,
                "-blockdev", json.dumps(disk), "-device", "virtio-blk-device,drive=disk",
                "-chardev", f"socket,id=agent,fd={agent_fd},server=on,wait=off", "-device", "virtio-serial-device",
                "-device", "virtserialport,chardev=agent,name=agent",
                "-chardev", f"socket,id=qmp,fd={qmp_fd},server=on,wait=off", "-mon", "chardev=qmp,mode=control", *extra]
        self.process = subprocess.Popen(argv, pass_fds=[qmp_fd, agent_fd, *pass_fds])
        self.qmp_socket = self._connect(f"{work}/qmp")
        self.qmp_file = self.qmp_socket.makefile("rb", buffering=0)
        if not self.qmp_file.readline():
            raise SystemExit(f"QEMU ended with {self.process.wait()}")
        self.qmp("qmp_capabilities")
        self.qmp("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])
        self.qmp_up = time.time()
        self.agent = self._connect(f"{work}/agent").makefile("rwb", buffering=0)

    @staticmethod
    def _listen(path):
        if os.path.exists(path):
            os.unlink(path)
        s = socket.socket(socket.AF_UNIX)
        s.bind(path)
        s.listen(1)
        return s

    @staticmethod
    def _connect(path):
        s = socket.socket(socket.AF_UNIX)
        s.connect(path)
        return s

    def qmp(self, command, fd=None, **arguments):
        message = [json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"]
        socket.send_fds(self.qmp_socket, message, [fd]) if fd is not None else self.qmp_socket.sendall(message[0])
        while True:
            reply = json.loads(self.qmp_file.readline())
            if "error" in reply:
                raise SystemExit(f"{command}: {reply['error']['desc']}")
            if "return" in reply:
                return reply["return"]

    def wait_status(self, query, wanted):
        while self.qmp(query).get("status") in wanted:
            time.sleep(0.0005)

    def run(self, command):
        self.agent.write(command.encode() + b"\n")
        output = []
        while not (line := self.agent.readline()).startswith(b"DONE"):
            if not line:
                raise SystemExit("the guest went away")
            output.append(line)
        return b"".join(output)

    def end(self):
        self.process.kill()
        self.process.wait()
        for s in self.listeners:
            s.close()


def overlay(path, backing, fmt):
    subprocess.check_call(["qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", fmt, path])


def by_fd(number, driver, read_only, backing=None):
    node = {"driver": driver, "read-only": read_only,
            "file": {"driver": "file", "filename": f"/dev/fdset/{number}", "read-only": read_only, "locking": "off", "cache": {"no-flush": True}}}
    if backing:
        node["backing"] = backing
    return node


def sealed_copy(path):
    """A write-sealed memfd with the bytes of a sparse file: QEMU may open it read-write, yet nobody can change it."""
    fd = os.memfd_create("template", os.MFD_ALLOW_SEALING)
    source = os.open(path, os.O_RDONLY)
    os.ftruncate(fd, os.fstat(source).st_size)
    at = 0
    while True:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError:
            break
        end = os.lseek(source, at, os.SEEK_HOLE)
        while at < end:
            chunk = os.pread(source, min(1 << 22, end - at), at)
            os.pwrite(fd, chunk, at)
            at += len(chunk)
    os.close(source)
    os.fchmod(fd, 0o666)
    fcntl.fcntl(fd, 1033, 1 | 2 | 4 | 8)  # F_ADD_SEALS: SEAL, SHRINK, GROW, WRITE
    return fd


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("kernel"), ap.add_argument("root")
    ap.add_argument("-n", type=int, default=10), ap.add_argument("-m", type=int, default=1024), ap.add_argument("-c", default="git --version")
    ap.add_argument("--cold", action="store_true", help="only the cold boot and its first command; prints their seconds as one number")
    ap.add_argument("--bare", action="store_true", help="save the guest before it opened its disk, and run nothing in it before")
    a = ap.parse_args()
    work = tempfile.mkdtemp(prefix="vm-floor-", dir="/var/tmp")
    try:
        os.mkdir(f"{work}/ir")
        subprocess.check_call(["cc", "-O2", "-static", "-o", f"{work}/ir/init", f"{HERE}/guest-init.c"])
        subprocess.check_call(f"cd {work}/ir && echo init | cpio --quiet -o -H newc > {work}/initramfs", shell=True)
        os.chmod(work, 0o755)
        overlay(f"{work}/template.qcow2", os.path.abspath(a.root), "raw")
        open(f"{work}/ram", "w").close()
        vm = Vm(work, a.kernel, a.m, f"{work}/ram", "on", {"node-name": "disk", "driver": "qcow2", "file": {"driver": "file", "filename": f"{work}/template.qcow2", "cache": {"no-flush": True}}}, bare=a.bare)
        vm.agent.readline()
        cold = time.time() - vm.started
        t = time.time()
        output = "" if a.bare else vm.run(a.c).decode().strip()
        if a.cold:
            print(f"{time.time() - vm.started:.4f}")
            vm.end()
            return
        print(output)
        print(f"cold: agent ready, root mounted {cold:.3f}  first command {time.time() - t:.3f}")
        if not a.bare:
            vm.run(a.c), vm.run("true"), vm.run("sync")
        vm.qmp("stop")
        state = os.open(f"{work}/state", os.O_RDWR | os.O_CREAT)
        vm.qmp("getfd", fd=state, fdname="state")
        vm.qmp("migrate", uri="fd:state")
        vm.wait_status("query-migrate", ("setup", "active", "device", "none", None))
        vm.end()
        ram = sealed_copy(f"{work}/ram")
        jail = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        steps = {"QMP up": [], "running": [], "command done": [], "private KiB": []}
        for i in range(a.n):
            overlay(f"{work}/{i}.qcow2", f"{work}/template.qcow2", "qcow2")
            fds = [os.open(f"{work}/{i}.qcow2", os.O_RDWR), os.open(f"{work}/template.qcow2", os.O_RDONLY), os.open(a.root, os.O_RDONLY)]
            disk = by_fd(1, "qcow2", False, by_fd(2, "qcow2", True, by_fd(3, "raw", True))) | {"node-name": "disk"}
            add = [x for n, fd in enumerate(fds, 1) for x in ("-add-fd", f"fd={fd},set={n}")]
            vm = Vm(work, a.kernel, a.m, f"/proc/self/fd/{ram}", "off", disk, [ram, *fds], jail, [*add, "-incoming", "defer"], bare=a.bare)
            os.lseek(state, 0, os.SEEK_SET)
            vm.qmp("getfd", fd=state, fdname="state")
            vm.qmp("migrate-incoming", uri="fd:state")
            vm.wait_status("query-status", ("inmigrate",))
            vm.qmp("cont")
            running = time.time()
            vm.run(a.c)
            done = time.time()
            rss = int(re.search(r"RssAnon:\s+(\d+)", open(f"/proc/{vm.process.pid}/status").read()).group(1))
            for key, value in zip(steps, (vm.qmp_up - vm.started, running - vm.started, done - vm.started, rss)):
                steps[key].append(value)
            vm.end()
            for fd in fds:
                os.close(fd)
        print(f"restored, {a.n} runs, medians: " + "  ".join(f"{k} {statistics.median(v):.3f}" if k != "private KiB" else f"{k} {statistics.median(v):.0f}" for k, v in steps.items()))
    finally:
        shutil.rmtree(work, ignore_errors=True)


main()
