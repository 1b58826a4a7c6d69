#!/usr/bin/env python3
"""Environments as a user has them: by catalog name through a mirror, broken and repaired, interrupted, pruned."""
import json
import os
import sys
import threading
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "support"))
import pyro_site  # noqa: E402


class Environments(unittest.TestCase):
    def site(self, **kwargs):
        site = pyro_site.Site(config=pyro_site.registry_config(), **kwargs)
        self.addCleanup(site.close)
        return site.start()

    def state_of(self, site, name="debian:12"):
        return {e["name"]: e["state"] for e in site.json("env", "list")["environments"]}[name]

    def test_list_pull_inspect_prune(self):
        site = self.site(environments=False)
        listed = {e["name"]: e["state"] for e in site.json("env", "list")["environments"]}
        self.assertEqual(listed, {"debian:12": "available", "debian:12-base": "available", "debian:12-build": "available"})
        with pyro_site.registry():
            done = site.pyro("env", "pull", "debian:12")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(b"[pull] phase=", done.stderr)
            again = site.json("env", "pull", "debian:12")
            self.assertEqual((again["changed"], again["downloaded_bytes"]), (False, 0))
        inspected = site.json("env", "inspect", "debian:12")
        self.assertEqual(inspected["environment"]["source"], "registry")
        self.assertEqual(inspected["environment"]["reference"], "docker.io/library/buildpack-deps:bookworm-scm")
        self.assertEqual(inspected["command"], ["bash"])
        self.assertEqual(site.json("env", "prune")["removed"], [])
        pruned = site.json("env", "prune", "--all")
        self.assertEqual(pruned["removed"], ["debian:12"])
        self.assertGreater(pruned["freed_bytes"], 100 << 20)
        self.assertEqual(self.state_of(site), "available")

    def test_prune_spares_what_a_vm_uses(self):
        site = self.site()
        vm = site.json("vm", "create", "debian:12")["vm_id"]
        site.stop()
        site.start()  # the record alone keeps it
        self.assertEqual(site.json("env", "prune", "--all")["removed"], [])
        site.json("vm", "delete", vm)
        self.assertEqual(site.json("env", "prune", "--all")["removed"], ["debian:12"])

    def test_a_pull_whose_daemon_dies_leaves_nothing_half_visible(self):
        site = self.site(environments=False)
        with pyro_site.registry():
            for phase in ("download", "build"):
                with site.connect() as client:
                    client.send("env.pull", environment="debian:12")
                    while client.wait_for("progress")["phase"] != phase:
                        pass
                    site.kill()
                site.start()
                self.assertEqual(self.state_of(site), "available")
            self.assertTrue(site.json("env", "pull", "debian:12")["changed"])
        self.assertEqual(self.state_of(site), "installed")

    def test_many_pulls_are_one(self):
        site = self.site(environments=False)
        results = []
        with pyro_site.registry():
            threads = [threading.Thread(target=lambda: results.append(site.json("env", "pull", "debian:12"))) for _ in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self.assertEqual(len(results), 6)
        self.assertEqual(len({r["environment"]["digest"] for r in results}), 1)

    def test_a_cancelled_pull_stops(self):
        site = self.site(environments=False)
        with pyro_site.registry():
            with site.connect() as client:
                client.send("env.pull", environment="debian:12")
                client.wait_for("progress")
            site.until(lambda: not site.leftovers(), "the pull's files are gone")
        self.assertEqual(self.state_of(site), "available")

    def test_run_pulls_what_is_missing(self):
        site = self.site(environments=False)
        with pyro_site.registry():
            done = site.pyro("run", "debian:12", "--", "git", "--version")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, rb"^git version ")
        self.assertIn(b"phase=", done.stderr)

    def test_what_is_not_there_is_said(self):
        site = self.site(environments=False)
        with pyro_site.registry() as address:
            done = site.pyro("env", "pull", f"{address}/no/such:image", "--json")
        self.assertEqual(done.returncode, 125)
        error = json.loads(done.stdout)["error"]
        self.assertEqual(error["code"], "not_found")
        self.assertTrue(error["hint"])


if __name__ == "__main__":
    unittest.main()
