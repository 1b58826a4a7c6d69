#!/usr/bin/env python3
"""Images made here, from a registry here, run as their configuration says: user, directory, variables, entry point and command;
with nothing in them but one static program, too."""
import os
import pathlib
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "support"))
import pyro_site  # noqa: E402
from oci import FaultyRegistry, Image  # noqa: E402
from odd import Tar  # noqa: E402

STATIC = pathlib.Path("/bin/busybox").read_bytes()  # busybox-static
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep
PASSWD = b"root:x:0:0:root:/root:/bin/sh\napp:x:1500:1501:App:/home/app:/bin/sh\n"
GROUP = b"root:x:0:\nmain:x:1501:\nextra:x:1600:app\nother:x:1700:\n"


def scratch(config, *more):
    return Image([Tar().file("busybox", STATIC, mode=0o755).bytes(), *more], config={**config})


def lying():
    """Plain layers that are said to be packed."""
    image = Image([Tar().file("busybox", STATIC, mode=0o755).bytes()], config={"Cmd": ["/busybox", "echo", "plain"]}, pack=False)
    for layer in image.document["layers"]:
        layer["mediaType"] += "+gzip"
    return image.seal()


def with_users(config):
    users = Tar().directory("etc").file("etc/passwd", PASSWD).file("etc/group", GROUP).directory("home").directory("home/app", uid=1500, gid=1501)
    return scratch(config, users.bytes())


SHOW = ["/busybox", "sh", "-c", 'echo "$(/busybox id -u):$(/busybox id -g) $(/busybox id -G) $(/busybox pwd) $HOME $A"']
IMAGES = {
    "scratch": scratch({"Entrypoint": ["/busybox"], "Cmd": ["echo", "from", "the image"]}),
    "command": scratch({"Cmd": ["/busybox", "echo", "only a command"]}),
    "entrypoint": scratch({"Entrypoint": ["/busybox", "echo", "only an entry point"]}),
    "lacking": scratch({"Cmd": ["/script"]}, Tar().file("script", "#!/bin/python3\n", mode=0o755).bytes()),
    "lying": lying(),
    "nothing": scratch({"Labels": {}}),
    "named": with_users({"User": "app", "WorkingDir": "/made/for/it", "Env": ["A=of the image", "PATH=/nowhere"], "Cmd": SHOW}),
    "group": with_users({"User": "app:other", "WorkingDir": "relative", "Cmd": SHOW}),
    "number": with_users({"User": "4242", "Cmd": SHOW}),
    "numbers": with_users({"User": "4242:4343", "Cmd": SHOW}),
    "ghost": with_users({"User": "ghost", "Cmd": SHOW}),
    "ghosts": with_users({"User": "app:ghosts", "Cmd": SHOW}),
    "blocked": with_users({"WorkingDir": "/etc/passwd/x", "Cmd": SHOW}),
    "odd": scratch({"Cmd": ["/busybox", "true"]}, Tar().file("busybox.suid", STATIC, mode=0o4755).file("busybox.caps", STATIC, mode=0o755, xattrs={"security.capability": CAPABILITY})
                   .add("null", Tar.CHARACTER, mode=0o666, device=(1, 3)).add("fifo", Tar.FIFO).file(b"\xff\xfe", "bytes").file("old", mtime="-1.5")
                   .file("late", mtime=2**33).file("high", uid=3000000, gid=70000).hard("other-name", "busybox").bytes()),
}


class Images(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.registry = FaultyRegistry({f"made/{name}": image for name, image in IMAGES.items()})
        cls.addClassCleanup(cls.registry.__exit__)
        cls.site = pyro_site.Site(f'[registry."{cls.registry.host}"]\nplain_http = true\nallow_private = true\n', environments=False)
        cls.addClassCleanup(cls.site.close)
        cls.site.start()

    def run_image(self, name, *arguments, options=(), code=0):
        done = self.site.pyro("run", "--timeout-seconds", "60", *options, f"{self.registry.host}/made/{name}:1", *arguments)
        self.assertEqual(done.returncode, code, done.stderr.decode(errors="replace"))
        return done.stdout.decode(errors="surrogateescape").strip(), done.stderr.decode(errors="replace")

    def test_entry_point_and_command(self):
        self.assertEqual(self.run_image("scratch")[0], "from the image")
        self.assertEqual(self.run_image("command")[0], "only a command")
        self.assertEqual(self.run_image("entrypoint")[0], "only an entry point")
        self.assertEqual(self.run_image("lying")[0], "plain")
        # A command that is given runs as it is: no entry point before it.
        self.assertEqual(self.run_image("entrypoint", "--", "/busybox", "echo", "given")[0], "given")
        _, said = self.run_image("nothing", code=125)
        self.assertIn("the image names no command to run", said)

    def test_nothing_but_one_static_program(self):
        out, _ = self.run_image("nothing", "--", "/busybox", "sh", "-c",
                                '/busybox test ! -e /etc/passwd && /busybox test ! -e /bin && /busybox touch /tmp/x && /busybox cat /proc/self/comm && '
                                '/busybox test -c /dev/null && /busybox test -d /sys/kernel && echo $HOME && /busybox id -u')
        self.assertEqual(out.split(), ["busybox", "/root", "0"])
        out, _ = self.run_image("nothing", "--", "/busybox", "sh", "-c", "/busybox id -u; /busybox id -g; echo $HOME", options=["--user", "1234:99"])
        self.assertEqual(out.split(), ["1234", "99", "/"])
        _, said = self.run_image("nothing", "--", "/busybox", "true", options=["--user", "app"], code=126)
        self.assertIn("the image has no user app", said)
        _, said = self.run_image("nothing", "--", "/bin/sh", code=127)
        self.assertIn("run /bin/sh: No such file", said)

    def test_doctor_says_what_confines_the_worker(self):
        said = {one["name"]: one["detail"] for one in self.site.call("system.doctor")["checks"]}["image sandbox"]
        self.assertRegex(said, r"^seccomp(, landlock version \d+|; this kernel has no landlock)$")

    def test_a_program_without_its_interpreter(self):
        _, said = self.run_image("lacking", code=127)
        self.assertIn("run /script, whose interpreter or loader the image lacks: No such file", said)

    def test_user_directory_and_variables(self):
        self.assertEqual(self.run_image("named")[0], "1500:1501 1501 1600 /made/for/it /home/app of the image")
        self.assertEqual(self.run_image("group")[0], "1500:1700 1700 /relative /home/app")
        self.assertEqual(self.run_image("number")[0], "4242:0 0 / /")
        self.assertEqual(self.run_image("numbers")[0], "4242:4343 4343 / /")
        # What the caller says goes before what the image says.
        out, _ = self.run_image("named", options=["--user", "0", "--workdir", "/home", "-e", "A=given"])
        self.assertEqual(out, "0:0 0 /home /root given")
        _, said = self.run_image("ghost", code=126)
        self.assertIn("the image has no user ghost", said)
        _, said = self.run_image("ghosts", code=126)
        self.assertIn("the image has no group ghosts", said)
        _, said = self.run_image("blocked", code=126)
        self.assertIn("enter /etc/passwd/x: Not a directory", said)

    def test_a_guest_sees_what_the_layers_say(self):
        script = ("cd /; /busybox stat -c '%n %a %u %g %Y %F %h' busybox.suid busybox.caps null fifo old late high busybox; /busybox test -e \"$(printf '\\377\\376')\" && echo named; "
                  "echo x > /null && /busybox stat -c %t:%T null; cd /tmp; /busybox mkdir lo; /busybox ls / | /busybox tr '\\n' ' '")
        out, _ = self.run_image("odd", "--", "/busybox", "sh", "-c", script)
        lines = out.splitlines()
        self.assertEqual(lines[:8], ["busybox.suid 4755 0 0 1700000000 regular file 1", "busybox.caps 755 0 0 1700000000 regular file 1", "null 666 0 0 1700000000 character special file 1",
                                     "fifo 644 0 0 1700000000 fifo 1", "old 644 0 0 -2 regular empty file 1", f"late 644 0 0 {2**33} regular empty file 1",
                                     "high 644 3000000 70000 1700000000 regular empty file 1", "busybox 755 0 0 1700000000 regular file 2"])
        self.assertEqual(lines[8:10], ["named", "1:3"])
        # setuid works here: busybox itself gives up what it does not need, so that is not seen by running it.
        out, _ = self.run_image("odd", "--", "/busybox", "sh", "-c", "/busybox grep ' / ' /proc/mounts")
        self.assertIn(" / ext4 rw", out)
        self.assertNotIn("nosuid", out)


if __name__ == "__main__":
    unittest.main()
