#!/usr/bin/env python3
"""What the documents say of files, folders, settings and tests, compared with what is there."""
import pathlib
import re
import sys

import layers_test

ROOT = pathlib.Path(sys.argv[1])
problems = []


def complain(path, text, at, what):
    problems.append(f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, at) + 1}: {what}")


def documents():
    for path in sorted(ROOT.rglob("*.md")):
        if not any(part == "build" or part.startswith((".", "build-")) for part in path.relative_to(ROOT).parts):
            yield path, path.read_text()


def without_code(text):
    """Fenced blocks and inline code blanked, every character in its place."""
    blank = lambda match: re.sub(r"[^\n]", " ", match.group())
    return re.sub(r"`[^`\n]*`", blank, re.sub(r"^```.*?^```", blank, text, flags=re.S | re.M))


def slug(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(text):
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.M)} | set(re.findall(r'<a id="([^"]+)"', text))


def check_links(path, text):
    for match in re.finditer(r"\]\(([^)\s]+)\)", without_code(text)):
        target, _, anchor = match.group(1).partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = path.parent / target if target else path
        if not file.exists():
            complain(path, text, match.start(), f"the link leads nowhere: {target}")
        elif anchor and anchor not in anchors(file.read_text()):
            complain(path, text, match.start(), f"the link leads to no such place: {match.group(1)}")


def check_paths(path, text):
    """Words of code that begin with a folder of the repository."""
    folders = {entry.name for entry in ROOT.iterdir() if entry.is_dir() and entry.name not in ("build", ".git")}
    for code in re.finditer(r"^```.*?^```|`[^`\n]+`", text, re.S | re.M):
        for word in re.finditer(r"[^\s`\"'()=]+", code.group()):
            name = word.group().rstrip(".,:;/")
            if name.split("/")[0] not in folders or "/" not in name or not re.fullmatch(r"[\w./<>*-]+", name):
                continue
            if not list(ROOT.glob(re.sub(r"<\w+>", "*", name))):
                complain(path, text, code.start() + word.start(), f"{name} is not there")


def rows(text, columns):
    """(place, cells) of the table rows whose first cell is code."""
    for match in re.finditer(r"^\| `([^`]+)` (.*)\|$", text, re.M):
        cells = [match.group(1)] + [cell.strip() for cell in match.group(2).strip("| ").split(" | ")]
        yield match.start(), cells + [""] * (columns - len(cells))


def check_layers(path, text):
    start = text.index("| folder | owns | may include |")
    table = text[start:text.index("\n\n", start)]
    said = {}
    for match in re.finditer(r"^\| `([^`]+)` \|.*\|([^|]*)\|$", table, re.M):
        names = match.group(2).split()
        said[match.group(1)] = {name if name in layers_test.MAY else "daemon/" + name for name in names}
    true = {folder: may - {folder} for folder, may in layers_test.MAY.items()}
    for folder in sorted(said.keys() | true.keys()):
        if said.get(folder) != true.get(folder):
            complain(path, text, start, f"{folder}: the table says {sorted(said.get(folder, ['no such folder']))}, "
                     f"layers_test.py {sorted(true.get(folder, ['no such folder']))}")


def settings():
    """Keys that config.cpp reads, with their defaults of config.hpp (None for what has none)."""
    fields, pending, section = {}, [], None
    for line in (ROOT / "daemon/config.hpp").read_text().splitlines():
        if match := re.match(r"\s*(?:std::string|std::int64_t|bool|std::vector<std::string>) (\w+)(?: = ([^;]+))?;", line):
            pending.append((match.group(1), (match.group(2) or "none").strip('"')))
        if re.match(r"    struct \w+ \{", line):
            top, pending = pending, []
            fields.update({name: default for name, default in top})
        if match := re.match(r"    \}(?: (\w+))?;", line):
            section = match.group(1) or "registry.HOST"
            fields.update({f"{section}.{name}": default for name, default in pending})
            pending = []
    keys, section = {"mirror.REGISTRY": "none"}, ""
    for line in (ROOT / "daemon/config.cpp").read_text().splitlines():
        if match := re.match(r'\s*top\.section\("(\w+)"', line):
            section = match.group(1)
        for who, name in re.findall(r'\b(top|s|r)\.read\("(\w+)"', line):
            key = {"top": name, "s": f"{section}.{name}", "r": f"{section}.HOST.{name}"}[who]
            keys[key] = fields[key].replace("{", "[").replace("}", "]")
    return keys


def check_settings(path, text):
    table = text[:text.index("```toml")]
    said = {cells[0]: (at, cells[1].strip("`")) for at, cells in rows(table, 3)}
    true = settings()
    for key in sorted(said.keys() - true.keys()):
        complain(path, text, said[key][0], f"{key} is no setting")
    for key, default in true.items():
        if key not in said:
            complain(path, text, 0, f"{key} is missing")
        elif said[key][1] != default:
            complain(path, text, said[key][0], f"{key}: the default is {default}")


def check_tests(path, text):
    """`tests/FILE`: `name`, `name`...: those tests of that file. Every promise has some."""
    start, end = text.index("## Promises"), text.index("## By construction")
    for promise in re.split(r"\n\n(?=\*\*)", text[start:end])[1:]:
        if "- `tests/" not in promise:
            complain(path, text, text.index(promise), f"no test proves: {promise[:60]}")
    for item in re.finditer(r"^- (`tests/.*?)(?=^- |\n\n)", text, re.S | re.M):
        file, *names = re.findall(r"`([^`]+)`", item.group(1))
        if not (ROOT / file).is_file():
            continue  # check_paths says so
        there = set(re.findall(r'TEST_CASE\("([^"]+)"|def (test_\w+)\(', (ROOT / file).read_text()))
        there = {first or second for first, second in there}
        for name in names:
            if name not in there:
                complain(path, text, item.start(), f"{file} has no test {name}")
        if not names:
            complain(path, text, item.start(), f"{file}: which tests?")


for document, content in documents():
    check_links(document, content)
    check_paths(document, content)
for name, check in (("architecture", check_layers), ("configuration", check_settings), ("security", check_tests)):
    page = ROOT / "docs" / f"{name}.md"
    check(page, page.read_text())
print("\n".join(problems))
sys.exit(1 if problems else 0)
