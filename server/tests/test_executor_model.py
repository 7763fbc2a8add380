"""Real, tiny decoders behind the executor and behind a worker process, against transformers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from forebay_kernels import force_torch
from forebay_worker.config import WorkerConfig
from forebay_worker.executor import Executor
from forebay_worker.pb import worker_pb2 as pb
from forebay_worker.pb import worker_pb2_grpc
from forebay_worker.plan import RowFlag
from forebay_worker.startup import num_cores, start_executor

from .models.tiny_configs import TINY
from .test_executor import ids_of
from .test_main import process
from .toy import LAST, Plans, new_sequence

# Most of it is the import of torch and transformers, in worker processes too, while other tests keep the cores busy.
pytestmark = pytest.mark.timeout(300)

S = RowFlag.SAMPLES
NUM_NEW = 10
PROMPTS = [[int(i) for i in np.random.default_rng(n).integers(0, 101, n)] for n in (1, 5, 16, 17, 40)]

Make = Callable[..., tuple[Path, Any]]


def worker_config(folder: Path, **fields: Any) -> WorkerConfig:
    sizes = {"max_sequences": 8, "max_plan_tokens": 48, "kv_cache_bytes": 2**22, "block_size": 8, "attention": "sdpa"}
    paths = {"model_path": str(folder), "socket_path": "", "rendezvous_path": ""}
    return WorkerConfig(**{**sizes, **paths, "incarnation": 1, **fields})


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """These models are too small to share out: on a busy machine threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def reference(make_folder: Make) -> tuple[Path, Any]:
    return make_folder("LlamaForCausalLM", TINY)


@pytest.fixture(scope="module")
def greedy(reference: tuple[Path, Any]) -> list[list[int]]:
    """transformers' greedy ids, a prompt at a time, recomputed from the start for every token."""
    texts = []
    for prompt in PROMPTS:
        ids = list(prompt)
        for _ in range(NUM_NEW):
            with torch.inference_mode():
                ids.append(int(reference[1](torch.tensor([ids])).logits[0, -1].argmax()))
        texts.append(ids[len(prompt) :])
    return texts


def run_mixed(executor: Executor, prompts: list[list[int]], max_chunk: int, **sampling: Any) -> list[list[int]]:
    """All prompts at once: every step has a chunk of at most `max_chunk` tokens of one prompt, and every decode."""
    plans = Plans()
    blocks = iter(np.random.default_rng(0).permutation(np.arange(1, executor.capabilities.num_blocks)).tolist())
    texts: list[list[int]] = [[] for _ in prompts]
    waiting = [(slot, start) for slot, p in enumerate(prompts) for start in range(0, len(p), max_chunk)]
    while waiting or min(map(len, texts)) < NUM_NEW:
        decodes = [(slot, 1, S) for slot, text in enumerate(texts) if 0 < len(text) < NUM_NEW]
        new, chunks = [], []
        if waiting:
            slot, start = waiting.pop(0)
            prompt = prompts[slot]
            if start == 0:
                table = [next(blocks) for _ in range(-(-(len(prompt) + NUM_NEW) // 8))]
                new = [new_sequence(slot, prompt, table, **sampling)]
            num_tokens = min(max_chunk, len(prompt) - start)
            chunks = [(slot, 1, num_tokens, LAST if start + num_tokens == len(prompt) else 0)]
        result = executor.execute(plans(new=new, decodes=decodes, chunks=chunks))
        assert not result.errors
        for slot, token in ids_of(result).items():
            texts[slot].append(token)
    return texts


@pytest.mark.parametrize("attention", ["sdpa", "batched", "paged"])
@pytest.mark.parametrize("max_chunk", [3, 40])
def test_chunked_and_batched_greedy_text_equals_transformers(
    reference: tuple[Path, Any], greedy: list[list[int]], max_chunk: int, attention: str
):
    executor = start_executor(worker_config(reference[0], attention=attention))
    assert run_mixed(executor, PROMPTS, max_chunk) == greedy


def test_prompt_logprobs_equal_transformers_and_are_the_models_own(reference: tuple[Path, Any]):
    executor, plans, prompt = start_executor(worker_config(reference[0])), Plans(), PROMPTS[-1]
    options = {"temperature": 0.5, "repetition_penalty": 1.5, "top_k": 3, "processed_logprobs": True}
    new = new_sequence(0, prompt, [5, 3, 4, 1, 2], num_prompt_logprobs=4, **options)
    P = RowFlag.PROMPT_LOGPROBS
    first = executor.execute(plans(new=[new], chunks=[(0, 1, 23, P)]))
    second = executor.execute(plans(chunks=[(0, 1, 17, P | LAST)]))
    entries = [*first.prompt_logprobs, *second.prompt_logprobs]
    assert [entry.first_position for entry in entries] == [1, 24]
    with torch.inference_mode():
        expected = reference[1](torch.tensor([prompt])).logits[0, :-1].log_softmax(-1)
    targets = torch.tensor(prompt[1:])[:, None]
    logprobs = np.concatenate([entry.logprobs for entry in entries])
    # float32 sums in another order.
    np.testing.assert_allclose(logprobs, expected.gather(1, targets)[:, 0], rtol=1e-4, atol=1e-5)
    ranks = np.concatenate([entry.ranks for entry in entries])
    assert ranks.tolist() == ((expected > expected.gather(1, targets)).sum(1) + 1).tolist()
    best = expected.topk(4)
    assert np.concatenate([entry.top_ids for entry in entries]).tolist() == best.indices.flatten().tolist()
    top = np.concatenate([entry.top_logprobs for entry in entries])
    np.testing.assert_allclose(top, best.values.flatten(), rtol=1e-4, atol=1e-5)


def test_sampled_text_depends_on_prompt_and_seed_alone(reference: tuple[Path, Any]):
    options = {"temperature": 1.0, "top_p": 0.95, "seed": 11, "repetition_penalty": 1.1}
    together = run_mixed(start_executor(worker_config(reference[0])), PROMPTS, 7, **options)
    alone = [run_mixed(start_executor(worker_config(reference[0])), [p], 40, **options)[0] for p in PROMPTS]
    assert together == alone


def test_torchs_operators_alone_give_the_text_of_the_kernels(reference: tuple[Path, Any], greedy: list[list[int]]):
    """What runs on a GPU, run on CPU: every op of a step, and every sampling option that cuts or draws."""
    options = {"temperature": 0.9, "top_k": 40, "top_p": 0.9, "typical_p": 0.95, "min_p": 0.01, "seed": 5}
    options |= {"repetition_penalty": 1.2, "frequency_penalty": 0.2, "presence_penalty": 0.1}
    config = worker_config(reference[0], attention="auto")
    by_kernels = run_mixed(start_executor(config), PROMPTS, 16, **options)
    with force_torch():
        executor = start_executor(config)
        assert executor.capabilities.attention_backend == "batched"
        assert run_mixed(executor, PROMPTS, 16, **options) == by_kernels
        assert run_mixed(start_executor(config), PROMPTS, 16) == greedy


@pytest.mark.parametrize("attention", ["sdpa", "batched", "paged"])
def test_a_sequence_of_nan_leaves_nothing_behind_in_the_blocks_it_held(
    reference: tuple[Path, Any], greedy: list[list[int]], attention: str
):
    executor = start_executor(worker_config(reference[0], attention=attention))
    for layer in executor._kv_cache.layers:
        layer.key.fill_(torch.nan)
        layer.value.fill_(torch.nan)
    assert run_mixed(executor, PROMPTS, 16) == greedy


def test_the_pool_and_the_limits_are_what_the_configuration_says(reference: tuple[Path, Any]):
    facts = start_executor(worker_config(reference[0], max_total_tokens=100)).capabilities
    # 2 layers, key and value, 2 heads of 16, float32, blocks of 8 tokens.
    assert facts.num_blocks == 2**22 // (2 * 2 * 2 * 16 * 4 * 8)
    assert facts.kv_cache_bytes == 2**22
    assert (facts.max_sequence_tokens, facts.max_position_embeddings, facts.vocab_size) == (100, 256, 101)
    assert (facts.dtype, facts.kv_cache_dtype, facts.attention_backend) == ("float32", "float32", "sdpa")
    small = start_executor(worker_config(reference[0], kv_cache_bytes=2**15, max_sequences=1)).capabilities
    assert (small.num_blocks, small.max_sequence_tokens) == (8, 56)


def test_a_pool_that_cannot_be_had_is_refused_with_its_size(reference: tuple[Path, Any]):
    with pytest.raises(ValueError, match=rf"`{2**50}` blocks, `{2**50 * 4096}` bytes, cannot be reserved: .*; free"):
        start_executor(worker_config(reference[0], num_blocks=2**50))


def test_the_quota_of_a_cgroup_bounds_the_cores(tmp_path: Path):
    unbound = num_cores(tmp_path)
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert num_cores(tmp_path) == min(unbound, 2)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert num_cores(tmp_path) == unbound


def plan_messages(prompt: list[int], num_decodes: int) -> list[pb.StepPlan]:
    """A whole prompt, then decodes: none of them needs to know what was sampled."""

    def packed(*values: int) -> bytes:
        return np.array(values, "<u4").tobytes()

    new = pb.NewSequence(
        slot=0,
        epoch=1,
        token_ids=packed(*prompt),
        num_prompt_tokens=len(prompt),
        block_ids=packed(1, 2, 3),
        sampling=pb.SamplingParams(top_p=1.0, repetition_penalty=1.0, num_prompt_logprobs=-1),
    )
    row = {"row_slots": packed(0), "row_epochs": packed(1), "row_flags": packed(LAST)}
    chunk = pb.StepPlan(step_id=0, new_sequences=[new], row_num_tokens=packed(len(prompt)), **row)
    decodes = [pb.StepPlan(step_id=1 + n, num_decodes=1, row_num_tokens=packed(1), **row) for n in range(num_decodes)]
    return [chunk, *decodes]


@pytest.mark.parametrize("world_size", [1, 2])
def test_worker_processes_load_answer_and_end_with_their_stream(
    reference: tuple[Path, Any], greedy: list[list[int]], tmp_path: Path, world_size: int
):
    with contextlib.ExitStack() as stack:
        workers, stubs = [], []
        for rank in range(world_size):
            socket = str(tmp_path / f"worker-{rank}.sock")
            paths = {"socket_path": socket, "rendezvous_path": str(tmp_path / "ranks"), "num_threads": 1}
            config = worker_config(reference[0], rank=rank, world_size=world_size, **paths)
            workers.append(stack.enter_context(process(json.dumps(dataclasses.asdict(config)) + "\n")))
            channel = stack.enter_context(grpc.insecure_channel(f"unix:{socket}"))
            stubs.append(worker_pb2_grpc.WorkerStub(channel))
        request = pb.HandshakeRequest(protocol=1, incarnation=1)
        hands = [stub.Handshake.future(request, timeout=80, wait_for_ready=True) for stub in stubs]
        facts = [hand.result() for hand in hands]
        assert [fact.rank for fact in facts] == list(range(world_size))
        assert len({(fact.world_size, fact.num_blocks, fact.vocab_size) for fact in facts}) == 1
        # As far ahead as the handshake allows, then the end: what was sent is still answered.
        messages = plan_messages(PROMPTS[2], facts[0].max_run_ahead)
        streams = [stub.Execute(iter(messages), timeout=60) for stub in stubs]
        results = [list(stream) for stream in streams]
        ids = [np.frombuffer(result.token_ids, "<u4").tolist() for result in results[0]]
        assert ids == [[token] for token in greedy[2][: len(messages)]]
        for answers in results[1:]:
            assert answers == [pb.StepResult(step_id=n) for n in range(len(messages))]
        assert [worker.wait(20) for worker in workers] == [0] * world_size
