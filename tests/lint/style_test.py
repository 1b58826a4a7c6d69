#!/usr/bin/env python3
"""Rules of docs/style.md that a machine can check."""
import re
import sys

import sources

RULES = [
    (re.compile(r"\b(?:std::)?system\s*\(|\bpopen\s*\("), "a shell where a Command value belongs"),
    (re.compile(r"\busleep\s*\(|\bsleep_for\s*\(.*this_thread|this_thread::sleep"), "a wait on time instead of an event"),
    (re.compile(r"catch\s*\(\s*\.\.\.\s*\)\s*\{\s*\}"), "an error swallowed"),
    (re.compile(r"\bco_spawn\s*\("), "a naked co_spawn: use a TaskGroup"),
    (re.compile(r"\bTODO\b|\bFIXME\b|\bXXX\b"), "unfinished"),
]
CO_SPAWN_HOME = ("daemon/io/",)

bad = 0
root = sys.argv[1]
for path in sources.files(root):
    relative = str(path.relative_to(root))
    text = path.read_text()
    code = sources.strip(text)
    for pattern, why in RULES:
        haystack = text if why == "unfinished" else code
        for match in pattern.finditer(haystack):
            if "co_spawn" in why and relative.startswith(CO_SPAWN_HOME):
                continue
            print(f"{relative}:{haystack.count(chr(10), 0, match.start()) + 1}: {why}")
            bad = 1
    if path.suffix == ".hpp" and "#pragma once" not in text:
        print(f"{relative}: no #pragma once")
        bad = 1
sys.exit(bad)
