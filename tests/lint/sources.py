"""The project's own C++ files, and their text without comments and literals."""
import pathlib
import re

FOLDERS = ("common", "proto", "daemon", "client", "image", "guest", "tests")


def files(root, *folders):
    for folder in folders or FOLDERS:
        for path in sorted((pathlib.Path(root) / folder).rglob("*")):
            if path.suffix in (".cpp", ".hpp"):
                yield path


def strip(source):
    """Keeps line numbers: what is removed leaves its newlines."""
    keep = lambda match: "\n" * match.group().count("\n")
    source = re.sub(r'R"(\w*)\((.*?)\)\1"', lambda m: '""' + keep(m), source, flags=re.S)
    source = re.sub(r"/\*.*?\*/", keep, source, flags=re.S)
    source = re.sub(r'"(\\.|[^"\\\n])*"', '""', source)
    source = re.sub(r"(?<![0-9a-fA-F])'(\\.|[^'\\\n])'", "' '", source)
    return re.sub(r"//[^\n]*", "", source)
