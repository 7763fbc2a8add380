"""Holds the real SmolLM2 against its references; prints figures, exits 1 when a gate is missed.

Usage: python tools/check_truth.py [float32] [gguf] [--types TYPE…] [--work-dir DIR] [--output JSON]

float32: 64 texts, 64 greedy tokens each, batched 16 at a time in chunks: the ids must be those of transformers, except
    after a token where the reference's two best logits differ by less than 1e-3 (listed).
gguf: the next token at every position of the same texts: how often the best token is that of float32, and how far the
    log-probability of float32's best token is off, in the mean; both for us and for llama.cpp on the same file.
--types: the same for files that requantize_smollm2.py makes of the bundled one, as Q8_0 or Q4_K_M, in its place; their
    gate is llama.cpp's figures alone. `bundled` is the bundled file itself.
--output: the figures of all files, which benchmarks/tables.py makes a table of.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

from forebay_worker.attention.backend import AttentionMetadata
from forebay_worker.config import WorkerConfig
from forebay_worker.distributed.groups import ProcessGroup
from forebay_worker.hub import bundled_model
from forebay_worker.kv_cache import KvCache
from forebay_worker.loader import LoadedModel, load_model

CHECKS = ("float32", "gguf")
BUNDLED = "bundled"
NUM_NEW_TOKENS = 64
BATCH_SIZE = 16
CHUNK_SIZE = 40
BLOCK_SIZE = 16
PROMPT_LENGTHS = (48, 72, 80, 96)
"""Of the four quarters of the texts, shortest first."""

NEAR_TIE = 1e-3
MIN_AGREEMENT = 0.98
"""Of the bundled file, whose values are the reference's own."""
MAX_AGREEMENT_BEHIND_PEER = 0.01
"""Of files that lost more in rounding than arithmetic does: near-ties then fall either way."""
MAX_RATIO_TO_PEER = 1.05
PEER_REQUEST: dict[str, Any] = {
    "n_predict": 1,
    "temperature": 0,
    "cache_prompt": True,
    "n_probs": 200,
    "logit_bias": [[260, 1000.0]],
}
"""Figures of llama.cpp's 200 best tokens, from its raw logits: should float32's best not be among them, it counts as
the last of them, to llama.cpp's advantage. What it chooses is forced to a plain word, for it tells nothing beside an
end token or half a character."""

Ids = list[int]


class Runner:
    """Packed steps over a decoder and its cache, as the executor makes them."""

    def __init__(self, path: Path) -> None:
        config = WorkerConfig(str(path), socket_path="", rendezvous_path="", incarnation=1)
        self.model: LoadedModel = load_model(config, ProcessGroup())
        self.blocks_each = -(-(max(PROMPT_LENGTHS) + NUM_NEW_TOKENS) // BLOCK_SIZE)
        self.cache = KvCache.allocate(
            self.model.spec,
            1 + BATCH_SIZE * self.blocks_each,
            BLOCK_SIZE,
            self.model.kv_cache_dtype,
            "cpu",
            num_shards=1,
        )

    def step(self, rows: Sequence[tuple[int, int, Ids]]) -> torch.Tensor:
        """rows: (sequence, tokens before, new ids). Returns the logits of every new token."""
        positions = torch.tensor([before + i for _, before, ids in rows for i in range(len(ids))])
        owners = torch.tensor([sequence for sequence, _, ids in rows for _ in ids])
        tables = 1 + torch.arange(BATCH_SIZE * self.blocks_each, dtype=torch.int32).view(BATCH_SIZE, -1)
        lens = [len(ids) for _, _, ids in rows]
        metadata = AttentionMetadata(
            block_tables_SB=tables[[sequence for sequence, _, _ in rows]],
            context_lens_S=torch.tensor([before + len(ids) for _, before, ids in rows], dtype=torch.int32),
            cu_seqlens_q_S1=torch.tensor(np.cumsum([0, *lens]), dtype=torch.int32),
            slot_mapping_T=tables[owners, positions // BLOCK_SIZE].long() * BLOCK_SIZE + positions % BLOCK_SIZE,
            block_size=BLOCK_SIZE,
            host_query_lens_S=np.array(lens),
            host_context_lens_S=np.array([before + len(ids) for _, before, ids in rows]),
        )
        ids_T = torch.tensor([token for _, _, ids in rows for token in ids])
        with torch.inference_mode():
            hidden = self.model.decoder.forward(ids_T, positions, self.cache, metadata)
            return self.model.decoder.logits(hidden)

    def greedy(self, prompts: Sequence[Ids]) -> list[Ids]:
        """The best tokens after each prompt; prompts enter one a step and in chunks, so that steps are mixed."""
        known = [list(prompt) for prompt in prompts]
        done = [0] * len(prompts)
        goals = [len(prompt) + NUM_NEW_TOKENS for prompt in prompts]
        for time in range(10**6):
            active = [s for s in range(min(time + 1, len(prompts))) if len(known[s]) < goals[s]]
            if not active and time >= len(prompts):
                break
            rows = [(s, done[s], known[s][done[s] : done[s] + CHUNK_SIZE]) for s in active]
            logits = self.step(rows)
            ends = np.cumsum([len(ids) for _, _, ids in rows])
            for (s, _, ids), end in zip(rows, ends, strict=True):
                done[s] += len(ids)
                if done[s] == len(known[s]):
                    known[s].append(int(logits[end - 1].argmax()))
        return [ids[len(prompt) :] for ids, prompt in zip(known, prompts, strict=True)]


@dataclasses.dataclass(frozen=True)
class NextTokens:
    """At each position of all texts in turn: the best token, and log-probabilities of the tokens asked about."""

    best: npt.NDArray[np.int64]
    logprobs: npt.NDArray[np.float64]


def main() -> int:
    """Run the checks that are named, or both. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", choices=[*CHECKS, []])
    parser.add_argument("--types", nargs="+", default=[BUNDLED], metavar="TYPE", help="with gguf: of files to be made")
    parser.add_argument("--work-dir", type=Path, default=Path(".cache/truth"), help="keeps the float32 folder")
    parser.add_argument("--output", type=Path, help="where to write the figures of gguf as JSON")
    arguments = parser.parse_args()
    folder = arguments.work_dir / "SmolLM2-135M-Instruct-float32"
    if not (folder / "model.safetensors").is_file():
        run_tool("make_smollm2_folder.py", folder)
    prompts = load_prompts(folder)
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    passed = []
    if "float32" in (arguments.checks or CHECKS):
        passed.append(check_float32(folder, reference, prompts))
    if "gguf" in (arguments.checks or CHECKS):
        truth = reference_next_tokens(reference, prompts)
        files = [requantized(arguments.work_dir, mix) for mix in arguments.types]
        figures = {file.name: gguf_figures(file, truth, prompts) for file in files}
        passed += [check_gguf(file, figures[file.name], truth.best.size) for file in files]
        if arguments.output:
            arguments.output.write_text(json.dumps({"positions": truth.best.size, "files": figures}, indent=2) + "\n")
    return 0 if all(passed) else 1


def run_tool(name: str, *arguments: str | Path) -> None:
    """Run a script that lies beside this one."""
    subprocess.run([sys.executable, Path(__file__).with_name(name), *arguments], check=True)


def requantized(work_dir: Path, mix: str) -> Path:
    """The bundled model, itself or in other types; made when it is not there yet."""
    if mix == BUNDLED:
        return bundled_model()
    path = work_dir / f"SmolLM2-135M-Instruct.{mix}.gguf"
    if not path.is_file():
        run_tool("requantize_smollm2.py", mix, path)
    return path


def load_prompts(folder: Path) -> list[Ids]:
    """The texts as ids, shortest quarter first, each quarter cut to one length."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = json.loads(Path(__file__).with_name("truth_texts.json").read_text())
    encoded = sorted((tokenizer.encode(text) for text in texts), key=len)
    lengths = np.repeat(PROMPT_LENGTHS, len(encoded) // len(PROMPT_LENGTHS))
    assert all(len(ids) >= length for ids, length in zip(encoded, lengths, strict=True))
    return [ids[:length] for ids, length in zip(encoded, lengths, strict=True)]


def batches(prompts: Sequence[Ids]) -> Iterable[Sequence[Ids]]:
    """Prompts of one length, `BATCH_SIZE` at a time: transformers needs no padding then."""
    return (prompts[start : start + BATCH_SIZE] for start in range(0, len(prompts), BATCH_SIZE))


def check_float32(folder: Path, reference: Any, prompts: Sequence[Ids]) -> bool:  # noqa: ANN401 (untyped package)
    """Greedy ids against transformers'."""
    runner = Runner(folder)
    num_equal = num_near_ties = 0
    for start, batch in enumerate(batches(prompts)):
        expected, gaps = greedy_reference(reference, batch)
        for number, (ours, theirs) in enumerate(zip(runner.greedy(batch), expected, strict=True)):
            if ours == theirs:
                num_equal += 1
                continue
            first = next(i for i in range(NUM_NEW_TOKENS) if ours[i] != theirs[i])
            gap = gaps[number][first]
            num_near_ties += gap < NEAR_TIE
            text = start * BATCH_SIZE + number
            print(f"  text {text}: token {first} differs; the reference's best two logits are {gap:.2e} apart")
    passed = num_equal + num_near_ties == len(prompts)
    print(
        f"float32: {num_equal} of {len(prompts)} texts give transformers' {NUM_NEW_TOKENS} ids, "
        f"{num_near_ties} part at a near-tie (< {NEAR_TIE}), attention `{runner.model.decoder.backend.name}`: "
        f"{verdict(passed)}"
    )
    return passed


def greedy_reference(reference: Any, batch: Sequence[Ids]) -> tuple[list[Ids], list[list[float]]]:  # noqa: ANN401
    """Transformers' greedy ids, and at each the distance of its two best logits."""
    ids = torch.tensor(list(batch))
    reference.generation_config.eos_token_id = None
    output = reference.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NUM_NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    best_two = torch.stack(output.logits, dim=1).topk(2).values
    return output.sequences[:, ids.shape[1] :].tolist(), (best_two[..., 0] - best_two[..., 1]).tolist()


def gguf_figures(file: Path, truth: NextTokens, prompts: Sequence[Ids]) -> dict[str, dict[str, float]]:
    """How near ours and llama.cpp come to float32 on a file: the share of equal best tokens, and mean |Δlogprob|."""
    figures = {}
    for name, next_tokens in (("ours", our_next_tokens), ("llama.cpp", peer_next_tokens)):
        candidate = next_tokens(file, prompts, truth.best)
        agreement = float((candidate.best == truth.best).mean())
        distance = float(np.abs(candidate.logprobs - truth.logprobs).mean())
        figures[name] = {"agreement": agreement, "mean_abs_dlogprob": distance}
        print(
            f"  {name}: agreement with float32 {agreement:.4f}, mean |Δlogprob| of its best {distance:.5f}", flush=True
        )
    return figures


def check_gguf(file: Path, figures: dict[str, dict[str, float]], num_positions: int) -> bool:
    """The figures of a quantized file against its gates."""
    ours, peer = figures["ours"], figures["llama.cpp"]
    ratio = ours["mean_abs_dlogprob"] / peer["mean_abs_dlogprob"]
    is_bundled = file == bundled_model()
    least = MIN_AGREEMENT if is_bundled else peer["agreement"] - MAX_AGREEMENT_BEHIND_PEER
    passed = ours["agreement"] >= least and ratio <= MAX_RATIO_TO_PEER
    print(
        f"{file.name}: {num_positions} positions, agreement {ours['agreement']:.4f} (at least {least:.4f}), "
        f"|Δlogprob| {ratio:.3f} of llama.cpp's (at most {MAX_RATIO_TO_PEER}): {verdict(passed)}"
    )
    return passed


def verdict(passed: bool) -> str:
    """How a gate ended."""
    return "passed" if passed else "FAILED"


def summarized(logits_PV: torch.Tensor, asked: npt.NDArray[np.int64] | None) -> NextTokens:
    """Best tokens, and log-probabilities of `asked` (None: of the best). P = positions, V = vocabulary."""
    logprobs_PV = logits_PV.double().log_softmax(-1)
    best = logits_PV.argmax(-1)
    wanted = best if asked is None else torch.from_numpy(asked)
    return NextTokens(best.numpy(), logprobs_PV.gather(1, wanted[:, None])[:, 0].numpy())


def joined(parts: Sequence[NextTokens]) -> NextTokens:
    """Several texts' positions in turn."""
    return NextTokens(np.concatenate([p.best for p in parts]), np.concatenate([p.logprobs for p in parts]))


def asked_of(prompts: Sequence[Ids], asked: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """`asked` (over all positions in turn) text by text."""
    return np.split(asked, np.cumsum([len(prompt) for prompt in prompts])[:-1])


def reference_next_tokens(reference: Any, prompts: Sequence[Ids]) -> NextTokens:  # noqa: ANN401 (untyped package)
    """float32, by transformers."""
    with torch.inference_mode():
        return joined([summarized(reference(torch.tensor([prompt])).logits[0], None) for prompt in prompts])


def our_next_tokens(file: Path, prompts: Sequence[Ids], asked: npt.NDArray[np.int64]) -> NextTokens:
    """By us, each text in chunks."""
    runner = Runner(file)
    parts = []
    for prompt, wanted in zip(prompts, asked_of(prompts, asked), strict=True):
        chunks = [(0, start, prompt[start : start + CHUNK_SIZE]) for start in range(0, len(prompt), CHUNK_SIZE)]
        parts.append(summarized(torch.cat([runner.step([chunk]) for chunk in chunks]), wanted))
    return joined(parts)


def peer_next_tokens(file: Path, prompts: Sequence[Ids], asked: npt.NDArray[np.int64]) -> NextTokens:
    """By llama.cpp: one token after each prefix; its prompt cache makes that one new token each."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
    params.n_parallel = 1
    params.n_ctx = 256
    params.n_gpu_layers = 0
    params.verbosity = 0
    server = xllamacpp.Server(params)
    best, logprobs = [], []
    for prompt, wanted in zip(prompts, asked_of(prompts, asked), strict=True):
        for length, token in enumerate(wanted, start=1):
            answer = server.handle_completions({"prompt": prompt[:length], **PEER_REQUEST})
            choices = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            best.append(choices[0]["id"])
            found = {choice["id"]: choice["logprob"] for choice in choices}
            logprobs.append(found.get(int(token), choices[-1]["logprob"]))
    return NextTokens(np.array(best), np.array(logprobs))


if __name__ == "__main__":
    sys.exit(main())
