#!/usr/bin/env python3
"""The user's own credentials, from his auth files through a real daemon to real registries, and to nobody else. Needs root."""
import base64
import json
import os
import pathlib
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "tests/support/registry")]
import oci  # noqa: E402
import pyro_site  # noqa: E402


def small_image():
    return oci.Image([oci.layer({"bin": None, "bin/sh": b"#!", "etc": None})])


def basic(text):
    return base64.b64encode(text.encode()).decode()


@unittest.skipUnless(os.geteuid() == 0, "the daemon is root")
class Login(unittest.TestCase):
    def registry(self, auth, **kwargs):
        registry = oci.DockerRegistry(auth, **kwargs)
        self.addCleanup(registry.close)
        self.image = small_image()
        for repository in ("team/app", "public/app"):
            registry.push(repository, "1", self.image)
        return registry

    def start(self, registry, settings="plain_http = true\nallow_private = true", more=""):
        site = pyro_site.Site(f'[registry."{registry.host}"]\n{settings}\n{more}', environments=False)
        self.addCleanup(site.close)
        self.home = site.path / "home"
        (self.home / ".docker").mkdir(parents=True)
        site.env = {"PATH": os.environ["PATH"], "HOME": str(self.home), "PYRO_SOCKET": str(site.socket)}
        self.site = site.start()
        return site

    def auth(self, document):
        (self.home / ".docker/config.json").write_text(json.dumps(document))

    def pull(self, name, code=0, command=("env", "pull")):
        done = self.site.pyro(*command, name, "--json")
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return json.loads(done.stdout)

    def nothing_is_kept(self, *secrets):
        """Neither in files nor in what the daemon has said."""
        for path in pyro_site.below(self.site.path):
            if path.is_file() and self.home not in path.parents and path.name != "root.ext4":  # that one is 8 GiB of holes
                data = path.read_bytes()
                for secret in secrets:
                    self.assertNotIn(secret.encode(), data, path)

    def test_basic(self):
        registry = self.registry("basic")
        self.start(registry)
        name = f"{registry.host}/team/app:1"
        refused = self.pull(name, 125)["error"]
        self.assertEqual(refused["code"], "failed_precondition")
        self.assertIn("log in", refused["hint"])
        self.auth({"auths": {registry.host: {"auth": basic("tester:wrong")}}})
        refused = self.pull(name, 125)["error"]
        self.assertEqual(refused["details"]["credentials"], "refused")
        self.assertNotIn("wrong", json.dumps(refused))
        self.auth({"auths": {registry.host: {"auth": basic("tester:wrong")}, f"{registry.host}/team": {"auth": basic("tester:secret")}}})
        self.assertEqual(self.pull(name)["environment"]["state"], "installed")
        self.nothing_is_kept("tester:secret", basic("tester:secret"), '"secret"', "wrong")

    def test_what_pulls_by_itself_logs_in_too(self):
        registry = self.registry("token")
        self.start(registry)
        self.auth({"auths": {registry.host: {"auth": basic("tester:secret")}}})
        self.pull(f"{registry.host}/team/app:1", command=("vm", "create"))
        (vm,) = json.loads(self.site.pyro("vm", "list", "--json").stdout)["vms"]
        self.site.pyro("vm", "delete", vm["vm_id"], check=True)

    def test_tokens_and_identity_tokens(self):
        registry = self.registry("token")
        self.start(registry)
        name = f"{registry.host}/team/app:1"
        self.pull(name, 125)
        self.pull(f"{registry.host}/public/app:1")
        self.auth({"auths": {registry.host: {"auth": basic("tester:"), "identitytoken": "identity-of-tester"}}})
        self.assertEqual(self.pull(name)["environment"]["state"], "installed")
        self.nothing_is_kept("identity-of-tester")

    def test_a_helper(self):
        registry = self.registry("basic")
        site = self.start(registry)
        name = f"{registry.host}/team/app:1"
        tools = site.path / "tools"
        tools.mkdir()
        helper = tools / "docker-credential-mine"
        site.env["PATH"] = f"{tools}:{site.env['PATH']}"
        self.auth({"credsStore": "mine"})
        self.assertIn("docker-credential-mine", self.pull(name, 125)["error"]["message"])
        helper.write_text(f'#!/bin/sh\nread server; echo "$server" >> {tools}/asked\n'
                          'echo "{\\"Username\\":\\"tester\\",\\"Secret\\":\\"secret\\"}"\n')
        helper.chmod(0o755)
        self.pull(name)
        self.assertEqual((tools / "asked").read_text(), registry.host + "\n")
        self.pull(name, command=("env", "inspect"))
        self.assertEqual((tools / "asked").read_text(), registry.host + "\n")  # nobody refused: nobody asked

    def test_credentials_go_to_the_registry_that_was_named(self):
        """Not to a mirror, nor to one that is asked for something else, nor before it refuses."""
        image = small_image()
        heard = []

        def closed(handler, kind, name):
            heard.append(dict(handler.headers))
            handler.answer(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
            return True
        mirror = oci.FaultyRegistry({}, closed)
        other = oci.FaultyRegistry({"app": image}, None)
        for one in (mirror, other):
            self.addCleanup(one.__exit__)
        site = self.start(other, more=f'[mirror]\n"docker.io" = "{mirror.url}"\n"ghcr.io" = "{mirror.url}"\n'
                                      '[environments]\nproxy = "http://127.0.0.1:9"\nno_proxy = "127.0.0.1"\nsources = ["registry"]\n')
        self.auth({"auths": {"https://index.docker.io/v1/": {"auth": basic("hub:hubword")}, "ghcr.io": {"auth": basic("gh:ghword")},
                             other.host: {"auth": basic("o:oword")}}})
        self.assertIn(self.pull("docker.io/library/private:1", 125)["error"]["code"], ("unavailable", "failed_precondition"))
        self.assertTrue(heard)
        self.assertTrue(all("Authorization" not in headers for headers in heard))
        self.pull(f"{other.host}/app:1")  # anonymous is enough
        self.assertTrue(all("Authorization" not in headers for _, _, headers in other.requests))
        site.stop()
        self.nothing_is_kept("hubword", "ghword", "oword")

    def test_the_request_itself(self):
        registry = self.registry("basic")
        self.start(registry)
        good = {"registry": registry.host, "username": "tester", "password": "secret"}
        for wrong in ({**good, "registry": "docker.io"}, {**good, "identity_token": "t"}, {"registry": registry.host}, {"registry": registry.host, "username": "u"},
                      {**good, "username": "a:b"}, {**good, "password": "a\r\nX: y"}, {**good, "more": 1}, {**good, "password": "x" * 70000}, 7):
            with self.assertRaises(pyro_site.RpcError) as refused:
                self.site.call("env.pull", environment=f"{registry.host}/team/app:1", credentials=wrong)
            self.assertEqual(refused.exception.code, "invalid_argument")
            self.assertNotIn("secret", json.dumps(refused.exception.error))
        self.site.call("env.pull", environment=f"{registry.host}/team/app:1", credentials=good)

    def test_tls_with_an_authority_of_its_own(self):
        registry = self.registry("basic", tls=True)
        site = self.start(registry, f'allow_private = true\nca_file = "{registry.path}/ca.crt"')
        self.auth({"auths": {registry.host: {"auth": basic("tester:secret")}}})
        self.pull(f"{registry.host}/team/app:1")
        self.assertNotIn("certificate", site.log())


if __name__ == "__main__":
    unittest.main()
