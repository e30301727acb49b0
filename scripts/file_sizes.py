"""Print the largest source files; fail when one is above the ceiling."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

CEILING = 400


def main() -> int:
    """Count the lines of every tracked Python file."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], capture_output=True, text=True, check=False
    )
    files = [Path(name) for name in listed.stdout.splitlines() if Path(name).is_file()]
    if not files:  # not a git checkout
        files = [
            p for top in ("frontend", "passes", "targets", "src") for p in Path(top).rglob("*.py")
        ]
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    ranked = sorted(sizes, key=lambda path: -sizes[path])
    written = [size for size in sizes.values() if size > 10]
    print(f"{len(files)} files, median {statistics.median(written):.0f} lines; the longest:")
    for path in ranked[:5]:
        print(f"{sizes[path]:5} {path}")
    too_long = [path for path in ranked if sizes[path] > CEILING]
    for path in too_long:
        print(f"error: {path} has more than {CEILING} lines; split it", file=sys.stderr)
    return 1 if too_long else 0


if __name__ == "__main__":
    sys.exit(main())
