"""What a library costs before it computes anything: the time of its import, and the files that it brings.

``python -m benchmarks.footprint torch`` prints both as JSON. It imports nothing else that takes time, NumPy least of
all, and must be started anew for each figure.
"""

from __future__ import annotations

import json
import re
import sys
import time
from importlib import import_module, metadata
from pathlib import Path

# What lies in a source folder, but not in a wheel.
SOURCES = {".c", ".h", ".pyx", ".pxd", ".o", ".pyc"}


def installed_bytes(name: str, folder: Path) -> int:
    """Return the size of the files of a package, which lies in folder, and of all that it depends on."""
    sizes: dict[Path, int] = {}
    pending, seen = [name], set()
    while pending:
        package = re.sub(r"[-_.]+", "-", pending.pop()).lower()
        try:
            distribution = metadata.distribution(package)
        except metadata.PackageNotFoundError:  # as of another system, or an extra that is not installed
            continue
        if package in seen:
            continue
        seen.add(package)
        files = {Path(str(distribution.locate_file(file))).resolve() for file in distribution.files or ()}
        if package == name and not any(folder in file.parents for file in files):  # it is installed in place
            files.update(folder.rglob("*"))
        sizes |= {file: file.stat().st_size for file in files if file.is_file() and file.suffix not in SOURCES}
        for requirement in distribution.requires or ():
            if "extra ==" not in requirement:
                pending += re.findall(r"^[\w.-]+", requirement)
    return sum(sizes.values())


def main() -> None:
    """Print the figures of the library that the first argument names."""
    name = sys.argv[1]
    start = time.perf_counter()
    module = import_module(name)
    seconds = time.perf_counter() - start
    folder = Path(str(module.__file__)).resolve().parent
    print(json.dumps({"import_seconds": seconds, "installed_bytes": installed_bytes(name, folder)}))


if __name__ == "__main__":
    main()
