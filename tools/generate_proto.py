"""Generates the worker's Python code from proto/worker.proto; `--check` fails if what is committed is stale."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path("forebay_worker/pb")
NAMES = ("worker_pb2.py", "worker_pb2.pyi", "worker_pb2_grpc.py")


def generate(destination: Path) -> None:
    """Write the three generated files into `destination`/forebay_worker/pb.

    The proto is mapped to a path inside the package, so that the generated imports are the package's own.
    Raises: subprocess.CalledProcessError where protoc refuses the file; its words are on stderr.
    """
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PACKAGE}={ROOT / 'proto'}"]
    command += [f"--{kind}_out={destination}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run([*command, str(PACKAGE / "worker.proto")], check=True)


def stale(fresh: Path) -> list[str]:
    """Names of committed files that differ from those under `fresh`."""

    def text(root: Path, name: str) -> str | None:
        path = root / PACKAGE / name
        return path.read_text() if path.exists() else None

    return [name for name in NAMES if text(fresh, name) != text(ROOT / "server", name)]


def main() -> int:
    """Generate, or check. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the committed files are stale")
    if not parser.parse_args().check:
        generate(ROOT / "server")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        names = stale(Path(folder))
    if names:
        print(f"stale: {', '.join(names)}; run `python tools/generate_proto.py`", file=sys.stderr)
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main())
