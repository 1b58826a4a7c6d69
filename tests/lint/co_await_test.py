#!/usr/bin/env python3
"""g++ 12.2 destroys some temporaries of a co_await statement twice. Name them instead: see docs/style.md."""
import re
import sys

import sources

BLOCK = (")", "else", "do", "try", "mutable", "noexcept")
LAMBDA_TAIL = re.compile(r"co_await[^;{}]*\[[^\]]*\]\s*(\([^()]*\))?\s*(mutable)?\s*(->\s*[\w:<>]+\s*)?$")
TYPE_TAIL = re.compile(r"(->\s*[\w:<>, ]+|namespace\s*[\w:]*|struct\s+[^;=]*|class\s+[^;=]*|enum[^;=]*)$")


def statements(text):
    """Yield (line, statement), split at ';' and at braces that open or close a block rather than an initialiser."""
    start, stack = 0, []
    for at, char in enumerate(text):
        if char == "{":
            before = text[start:at].rstrip()
            block = ((before == "" or before.endswith(BLOCK)) and not LAMBDA_TAIL.search(before)
                     or bool(TYPE_TAIL.search(before)) and "co_await" not in before)
            stack.append(block)
            if block:
                start = at + 1
        elif char == "}":
            if stack.pop() if stack else True:
                start = at + 1
        elif char == ";" and (not stack or stack[-1]):
            yield text.count("\n", 0, start) + 1, text[start:at]
            start = at + 1


def verdict(statement):
    if not re.search(r"\bco_await\b", statement):
        return None
    captures = re.search(r"(?<![\w\])])\[(?!\[)[^\]]*\]\s*[({]", statement)
    by_reference = re.search(r"(?<![\w\])])\[\s*&?\s*\]", statement)
    if captures and not by_reference:
        return "capturing lambda"
    if "{" in statement:
        return "braced temporary"
    if re.search(r"\?[^:]*:", statement):
        return "conditional"
    return None


SAMPLES = [("co_await h(Req{1});", True), ("co_await h({1, 2});", True), ("auto x = c ? co_await f() : T();", True),
           ("co_await on([v = std::move(v)] { v(); });", True), ("co_await h(std::move(local));", False),
           ("if (auto v = co_await f(); v) { g(); }", False), ("for (auto& x : co_await f()) { use(x); }", False)]


def main(root):
    for sample, bad in SAMPLES:
        if any(verdict(s) for _, s in statements(sample)) != bad:
            sys.exit(f"the lint itself is wrong about: {sample}")
    found = 0
    for path in sources.files(root):
        for line, statement in statements(sources.strip(path.read_text())):
            if why := verdict(statement):
                print(f"{path.relative_to(root)}:{line}: {why} in a co_await statement: {' '.join(statement.split())[:90]}")
                found += 1
    sys.exit(1 if found else 0)


main(sys.argv[1])
