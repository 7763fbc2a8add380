"""Tensor parallelism over real processes: more shards change nothing in the text."""

import subprocess

import pytest

from binary import BINARY

PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n",
    "Once upon a time, in a village by the sea,",
    "The three laws of motion state that",
]

pytestmark = pytest.mark.timeout(300)


def greedy_ids(server) -> list[list[int]]:
    parameters = {"max_new_tokens": 24, "details": True}
    answers = [server.post("/generate", {"inputs": prompt, "parameters": parameters}, 120) for prompt in PROMPTS]
    return [[token["id"] for token in answer["details"]["tokens"]] for answer in answers]


def test_three_shards_give_the_ids_of_one(start_server, float32_folder):
    arguments = ("--model-id", str(float32_folder), "--dtype", "float32")
    with start_server(*arguments) as one:
        expected = greedy_ids(one)
    with start_server(*arguments, "--num-shard", "3") as three:
        assert len(three.worker_pids()) == 3
        assert greedy_ids(three) == expected


def test_two_shards_of_a_small_random_model_give_the_ids_of_one(start_server, tiny_llama_folder):
    arguments = ("--model-id", str(tiny_llama_folder), "--dtype", "float32")
    with start_server(*arguments) as one:
        expected = greedy_ids(one)
    with start_server(*arguments, "--num-shard", "2") as two:
        assert greedy_ids(two) == expected


def test_a_number_of_shards_that_does_not_divide_is_refused_with_those_that_do():
    command = [BINARY, "serve", "--hostname", "127.0.0.1", "--port", "0", "--num-shard", "2"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    message = ended.stdout + ended.stderr
    assert "9" in message and "3" in message and "num-shard" in message, message
