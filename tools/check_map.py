"""Check that every `path::name` in the maps of the code exists: a map that lies is worse than none.

A reference is a backticked `path/to/file.ext::name`, or a path with a slash in it. The path is looked up from the
repository's root; the name must be defined in that file (a Rust or Python item, a proto message or rpc).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAPS = ["docs/ARCHITECTURE.md", "docs/reference/tgi-differences.md", "CONTRIBUTING.md"]
REFERENCE = re.compile(r"`([\w.\-]+(?:/[\w.\-]+)*/?)(?:::(\w+))?`")
ITEM = r"fn|struct|enum|trait|type|mod|class|def|message|rpc|service|const|static"
PREFIX = r"(?:pub(?:\([a-z]+\))?\s+)?(?:async\s+|const\s+|unsafe\s+)*"


def defines(text: str, name: str) -> bool:
    """Tell whether `text`, a source file, defines an item called `name`."""
    pattern = rf"^\s*{PREFIX}(?:{ITEM})\s+{name}\b|^{name}\s*[:=]"
    return re.search(pattern, text, re.MULTILINE) is not None


def complaints(map_path: Path) -> list[str]:
    """List what is wrong with the references of one map file, a line each."""
    wrong = []
    for number, line in enumerate(map_path.read_text(encoding="utf-8").splitlines(), start=1):
        for path, name in REFERENCE.findall(line):
            if "/" not in path and not name:
                continue
            target = ROOT / path
            where = f"{map_path.relative_to(ROOT)}:{number}"
            if not target.exists():
                wrong.append(f"{where}: `{path}` does not exist")
            elif name and not (target.is_file() and defines(target.read_text(encoding="utf-8"), name)):
                wrong.append(f"{where}: `{path}` does not define `{name}`")
    return wrong


def main() -> int:
    """Check every map; return the exit status."""
    wrong = [complaint for name in MAPS for complaint in complaints(ROOT / name)]
    for complaint in wrong:
        print(complaint, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
