#!/usr/bin/env python3
"""Who may include whom: docs/architecture.md. A folder not named here may not exist."""
import re
import sys

import sources

MAY = {
    "common": set(),
    "common/patch": {"common"},
    "proto": {"common"},
    "daemon/io": {"common"},
    "daemon/state": {"common", "proto", "daemon/io"},
    "daemon/supervise": {"common", "daemon/io"},
    "daemon/rpc": {"common", "proto", "daemon/io"},
    "daemon/env": {"common", "proto", "daemon/io", "daemon/state", "daemon/supervise"},
    "daemon/agent": {"common", "proto", "daemon/io"},
    "daemon/compat": {"common", "proto", "daemon/io", "daemon/supervise", "daemon/agent"},
    "daemon/vm": {"common", "proto", "daemon/io", "daemon/state", "daemon/supervise", "daemon/agent", "daemon/vm/qemu"},
    "daemon/workspace": {"common", "proto", "daemon/io", "daemon/state", "daemon/supervise", "daemon/env", "daemon/agent", "daemon/vm"},
    "daemon/service": {"common", "common/patch", "proto", "daemon/io", "daemon/state", "daemon/supervise", "daemon/rpc", "daemon/env",
                       "daemon/agent", "daemon/compat", "daemon/vm", "daemon/workspace"},
    "daemon": {"common", "proto", "daemon/io", "daemon/state", "daemon/supervise", "daemon/rpc", "daemon/env",
               "daemon/agent", "daemon/compat", "daemon/vm", "daemon/vm/qemu", "daemon/workspace", "daemon/service"},
    "client/lib": {"common", "proto"},
    "client/seed": {"common"},
    "client/transfer": {"common", "proto", "client/lib", "client/seed"},
    "client/host": {"common", "common/patch"},
    "client/cli": {"common", "proto", "client/lib", "client/seed", "client/transfer", "client/host"},
    "client/mcp": {"common", "proto", "client/lib", "client/seed", "client/transfer", "client/mcp/protocol"},
    "client/mcp/protocol": {"common"},
    "guest/agent": {"common", "proto", "guest/files"},
    "guest/files": {"common", "common/patch", "proto"},
    "image": {"common"},
    "image/program": {"common", "image"},
}
MAY["daemon/vm/qemu"] = MAY["daemon/vm"] | {"daemon/vm"}
# Asio's I/O headers are instantiated in one folder; the others see its coroutine vocabulary through daemon/io/task.hpp.
ASIO_ONLY_IN = "daemon/io"


def main(root):
    bad = 0
    for path in sources.files(root, "common", "proto", "daemon", "client", "image", "guest"):
        relative = path.relative_to(root)
        folder = str(relative.parent)
        if folder not in MAY:
            print(f"{relative}: the folder {folder} has no row in tests/lint/layers_test.py")
            bad = 1
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if m := re.match(r'\s*#\s*include\s+"([^"]+)"', line):
                target = m.group(1).rsplit("/", 1)[0]
                if target != folder and target not in MAY[folder]:
                    print(f"{relative}:{number}: {folder} may not include {m.group(1)}")
                    bad = 1
            if re.match(r"\s*#\s*include\s+<boost/asio", line) and folder != ASIO_ONLY_IN:
                print(f"{relative}:{number}: Asio belongs to {ASIO_ONLY_IN}")
                bad = 1
    sys.exit(bad)


if __name__ == "__main__":
    main(sys.argv[1])
