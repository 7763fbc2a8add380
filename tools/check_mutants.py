"""Show that the scheduler's tests notice known mistakes: each patch of `tests/mutants/` is one, a line or so.

Every patch is applied to a copy of the crate, where the simulation, and then the scenarios, must fail. Prints a
table; fails if a mutant survives or its patch no longer applies. `--apply-only` checks the latter alone, in a moment.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CRATE = Path("router/scheduler")
TESTS = ["simulation", "scenarios"]
TIMEOUT_S = 600
PANIC = re.compile(r"panicked at (\S+?):\d+:\d+:\n(.*)")


def applies(patch: Path) -> bool:
    """Tell whether `patch` fits the crate as it is."""
    command = ["git", "apply", "--check", str(patch)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def copy_crate(to: Path) -> None:
    """Make a workspace of the one crate in `to`."""
    shutil.copytree(ROOT / CRATE, to / CRATE)
    manifest = (ROOT / "Cargo.toml").read_text(encoding="utf-8")
    manifest = re.sub(r"^members = .*$", f'members = ["{CRATE}"]', manifest, flags=re.MULTILINE)
    manifest = re.sub(r"^default-members = .*\n", "", manifest, flags=re.MULTILINE)
    (to / "Cargo.toml").write_text(manifest, encoding="utf-8")
    for name in ["Cargo.lock", "rust-toolchain.toml"]:
        shutil.copy(ROOT / name, to / name)


def run(workspace: Path, test: str) -> tuple[bool, str]:
    """Run one test binary of the crate; tell whether it passed, and its output."""
    command = ["cargo", "test", "--quiet", "--offline", "--package", "forebay-scheduler", "--test", test]
    environment = {**os.environ, "CARGO_TARGET_DIR": str(ROOT / "target/mutants"), "RUST_BACKTRACE": "0"}
    try:
        done = subprocess.run(
            command, cwd=workspace, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False, "panicked at time:0:0:\nit does not end"
    return done.returncode == 0, done.stdout + done.stderr


def verdict(patch: Path) -> tuple[bool, str]:
    """Tell whether the mutant is caught, and by what."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        copy_crate(workspace)
        subprocess.run(["git", "apply", str(patch)], cwd=workspace, check=True)
        for test in TESTS:
            passed, output = run(workspace, test)
            panic = PANIC.search(output)
            if not passed and panic:
                return True, f"{test}: {panic[2][:70]} ({Path(panic[1]).name})"
            if not passed:
                return False, f"it does not build: {output.strip().splitlines()[0]}"
    return False, "survived"


def main() -> int:
    """Check every mutant; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--apply-only", action="store_true", help="only check that every patch still applies")
    parser.add_argument("names", nargs="*", help="mutants to run; all by default")
    arguments = parser.parse_args()
    patches = sorted((ROOT / CRATE / "tests/mutants").glob("*.patch"))
    if arguments.names:
        patches = [patch for patch in patches if patch.stem in arguments.names]
    stale = [patch.stem for patch in patches if not applies(patch)]
    for name in stale:
        print(f"the mutant `{name}` no longer applies: make its patch anew", file=sys.stderr)
    if stale or not patches:
        return 1
    if arguments.apply_only:
        return 0
    began, num_caught = time.monotonic(), 0
    for patch in patches:
        caught, how = verdict(patch)
        num_caught += caught
        print(f"{'caught' if caught else 'NOT CAUGHT':<10}  {patch.stem:<36}  {how}", flush=True)
    minutes = (time.monotonic() - began) / 60
    print(f"{num_caught} of {len(patches)} caught in {minutes:.1f} minutes")
    return 0 if num_caught == len(patches) else 1


if __name__ == "__main__":
    sys.exit(main())
