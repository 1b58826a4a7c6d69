#!/usr/bin/env python3
"""`pyro mcp serve` by the protocol's own clients, against real VMs. usage: mcp_clients_test.py TEST_NODE_FOLDER"""
import os
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "support"))
import pyro_site  # noqa: E402
from mcp_shim import checkout  # noqa: E402

node = pathlib.Path(sys.argv[1])
with tempfile.TemporaryDirectory(prefix="pyro-mcp-clients-") as folder, pyro_site.Site("[templates]\nenabled = true\n") as site:
    project = checkout(pathlib.Path(folder) / "project", {"src/a.txt": "one\ntwo\nthree\n", "test.sh": "grep -q 2 src/a.txt\n"})
    done = subprocess.run([node / "node_modules/.bin/node", pathlib.Path(__file__).with_name("mcp_clients_test.mjs"), node, pyro_site.BIN / "pyro", project],
                          env={**site.env, "HOME": folder})
    left = site.call("workspace.list")["workspaces"]
    for workspace in left:
        site.call("workspace.delete", workspace_id=workspace["workspace_id"])
sys.exit(done.returncode or (f"workspaces were left: {left}" if left else 0))
