"""Check that sampled text depends on (prompt, seed) alone: not on neighbours, run-ahead, preemption or shards.

32 prompts x 64 tokens at temperature 1, top-p 0.95, through the real server. In float32 every difference must be a
near-tie: at the first token that differs, the two best perturbed logits, or a token and the edge of the nucleus, lie
within `NEAR_TIE`. The same table for the bundled GGUF file is printed and not gated: there the activations are
quantized, and rounding may flip what lies close.

    python -m tools.check_sampling [--skip-gguf]
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import sys
from pathlib import Path

from tools.real_server import RealServer, float32_folder, real_texts, serving

NUM_PROMPTS = 32
NUM_TOKENS = 64
TEMPERATURE = 1.0
TOP_P = 0.95
NEAR_TIE = 1e-3

Texts = list[list[int]]


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to serve the same requests."""

    name: str
    arguments: tuple[str, ...] = ()
    streams: int = NUM_PROMPTS
    must_preempt: bool = False


VARIANTS = [
    Variant("alone", streams=1),
    Variant("among 31 others"),
    Variant("run-ahead 0", ("--run-ahead", "0")),
    Variant("run-ahead 2", ("--run-ahead", "2")),
    Variant("forced preemption", ("--kv-cache-tokens", "1024", "--max-total-tokens", "512"), must_preempt=True),
    Variant("3 shards", ("--num-shard", "3")),
]


def prompts() -> list[str]:
    """Take the first prompts of the truth check's real texts."""
    return real_texts()[:NUM_PROMPTS]


def sample(server: RealServer, prompt: str, seed: int) -> list[int]:
    """Generate one text; return its token ids."""
    parameters = {
        "do_sample": True, "temperature": TEMPERATURE, "top_p": TOP_P, "seed": seed, "max_new_tokens": NUM_TOKENS,
    }  # fmt: skip
    return [token["id"] for token in server.generate(prompt, parameters)["tokens"]]


def run(variant: Variant, model: Path | None) -> Texts:
    """Serve all prompts in the variant's way."""
    source = ["--model-id", str(model), "--dtype", "float32"] if model else []
    with serving(*source, *variant.arguments) as server:
        with concurrent.futures.ThreadPoolExecutor(variant.streams) as pool:
            texts = list(pool.map(lambda pair: sample(server, pair[1], pair[0]), enumerate(prompts())))
        if variant.must_preempt and server.metric("forebay_preemptions_total") == 0:
            sys.exit(f"`{variant.name}`: nothing was preempted; the pool is too large for this check")
    return texts


def first_difference(a: list[int], b: list[int]) -> int | None:
    """Find where two texts part."""
    if a == b:
        return None
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


class Reference:
    """The model in transformers, to tell how close a choice was."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def margin(self, prompt: str, generated: list[int], seed: int) -> float:
        """Measure how near a tie the choice after `generated` is: in perturbed logits, or to the nucleus's edge."""
        import torch

        from forebay_kernels.ops.sampling_noise import gumbel_noise_reference

        ids = self.tokenizer(prompt)["input_ids"] + generated
        with torch.inference_mode():
            logits = self.model(torch.tensor([ids])).logits[0, -1] / TEMPERATURE
        probabilities, order = logits.softmax(-1).sort(descending=True)
        before = probabilities.cumsum(-1) - probabilities
        edge = (before - TOP_P).abs().min().item()
        kept = order[before < TOP_P]
        noise = gumbel_noise_reference(torch.tensor([seed]), torch.tensor([len(ids)]), logits.numel())[0]
        best = (logits[kept] + noise[kept]).topk(min(2, len(kept))).values
        gap = (best[0] - best[-1]).item() if len(best) > 1 else float("inf")
        return float(min(gap, edge))


def compare(model: Path | None, reference: Reference | None) -> int:
    """Print the table for one model; return how many differences are not near-ties (0 without a reference)."""
    baseline = run(VARIANTS[0], model)
    failures = 0
    for variant in VARIANTS[1:]:
        if model is None and variant.name == "3 shards":
            continue
        texts = run(variant, model)
        parted = [(i, at) for i, text in enumerate(texts) if (at := first_difference(baseline[i], text)) is not None]
        print(f"  {variant.name:20} {NUM_PROMPTS - len(parted)}/{NUM_PROMPTS} equal to alone", flush=True)
        for i, at in parted:
            if reference is None:
                continue
            margin = reference.margin(prompts()[i], baseline[i][:at], seed=i)
            verdict = "near-tie" if margin < NEAR_TIE else "NOT a near-tie"
            failures += margin >= NEAR_TIE
            print(f"    prompt {i}, token {at}: margin {margin:.2e}, {verdict}")
    return failures


def main() -> int:
    """Compare every variant with serving each prompt alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip-gguf", action="store_true", help="only the gated float32 table")
    arguments = parser.parse_args()
    folder = float32_folder()
    print("float32:")
    failures = compare(folder, Reference(folder))
    if not arguments.skip_gguf:
        print("the bundled GGUF file (not gated):")
        compare(None, None)
    print(f"{failures} differences that are not near-ties")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
