"""The `openai` client, unmodified: chat and completions, streamed or not."""

import openai
import pytest

MESSAGES = [{"role": "user", "content": "Count from one to five."}]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_chat_answers_with_usage(client):
    completion = client.chat.completions.create(model="tgi", messages=MESSAGES, max_tokens=24, temperature=0)
    assert completion.choices[0].message.content
    assert completion.usage.completion_tokens <= 24
    assert completion.model != "tgi"


def test_chat_streams_what_it_returns_whole(client):
    options = {"model": "any-name", "messages": MESSAGES, "max_tokens": 24, "temperature": 0}
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    # The second request finds the first one's prompt in the cache; all other counts agree.
    counts = [usage.model_dump(exclude={"prompt_tokens_details"}) for usage in (chunks[-1].usage, whole.usage)]
    assert counts[0] == counts[1]
    deltas = [chunk.choices[0] for chunk in chunks[:-1]]
    assert "".join(choice.delta.content or "" for choice in deltas) == whole.choices[0].message.content
    assert [c.finish_reason for c in deltas if c.finish_reason] == [whole.choices[0].finish_reason]


def test_chat_logprobs_give_alternatives_and_bytes(client):
    completion = client.chat.completions.create(
        model="tgi", messages=MESSAGES, max_tokens=5, temperature=0, logprobs=True, top_logprobs=3
    )
    content = completion.choices[0].logprobs.content
    assert len(content) == completion.usage.completion_tokens
    for token in content:
        assert len(token.top_logprobs) == 3
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob)
        assert bytes(token.bytes).decode() == token.token


def test_a_stop_string_is_trimmed_and_reported_as_stop(client):
    options = {"model": "tgi", "messages": MESSAGES, "max_tokens": 24, "temperature": 0}
    whole = client.chat.completions.create(**options).choices[0].message.content
    stop = whole[10:14]
    stopped = client.chat.completions.create(**options, stop=stop).choices[0]
    assert stopped.message.content == whole[: whole.index(stop)]
    assert stopped.finish_reason == "stop"
    streamed = client.chat.completions.create(**options, stop=[stop], stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == stopped.message.content


def test_completions_answer(client):
    completion = client.completions.create(model="tgi", prompt="The capital of France is", max_tokens=8, temperature=0)
    assert "Paris" in completion.choices[0].text
    assert completion.usage.prompt_tokens == 5


def test_completions_stream_what_they_return_whole(client):
    options = {"model": "tgi", "prompt": "The capital of France is", "max_tokens": 12, "temperature": 0}
    whole = client.completions.create(**options).choices[0].text
    assert "".join(chunk.choices[0].text for chunk in client.completions.create(**options, stream=True)) == whole


def test_echo_scores_a_text_as_it_was_generated(client):
    prompt = "The capital of France is"
    generated = client.completions.create(model="tgi", prompt=prompt, max_tokens=8, temperature=0, logprobs=1)
    generated = generated.choices[0]
    text, num_generated = prompt + generated.text, len(generated.logprobs.tokens)
    options = {"max_tokens": 0, "echo": True, "logprobs": 1, "extra_body": {"prompt_logprobs": 1}}
    scored = client.completions.create(model="tgi", prompt=text, **options)
    assert scored.usage.completion_tokens == 0
    scored = scored.choices[0]
    assert scored.text == text
    assert scored.logprobs.tokens[-num_generated:] == generated.logprobs.tokens
    assert scored.logprobs.token_logprobs[0] is None
    # The bundled model computes chunks and single tokens with differently quantized activations.
    assert scored.logprobs.token_logprobs[-num_generated:] == pytest.approx(generated.logprobs.token_logprobs, abs=0.1)
    assert scored.prompt_logprobs[0] is None
    for entry, logprob in zip(scored.prompt_logprobs[1:], scored.logprobs.token_logprobs[1:], strict=True):
        own, *others = entry.values()
        assert own["logprob"] == pytest.approx(logprob, abs=1e-6)
        assert (own["rank"] == 1) == (not others), "the best alternative is the token itself iff it ranks first"


def test_the_best_of_several_come_best_first(client):
    options = {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 1.0, "seed": 3, "logprobs": 0}
    completion = client.completions.create(model="tgi", **options, n=2, best_of=5)
    logprobs = [choice.logprobs.token_logprobs for choice in completion.choices]
    best, second = (sum(values) / len(values) for values in logprobs)
    assert best >= second
    assert completion.usage.completion_tokens > sum(map(len, logprobs)), "all five are counted"


def test_a_seed_fixes_the_text(client):
    options = {"model": "tgi", "messages": MESSAGES, "max_tokens": 24, "temperature": 1.0, "seed": 11}
    texts = {client.chat.completions.create(**options).choices[0].message.content for _ in range(3)}
    assert len(texts) == 1


def test_the_model_list_names_the_served_model(client):
    assert [model.object for model in client.models.list()] == ["model"]


def test_an_unsupported_field_is_refused_by_name(client):
    with pytest.raises(openai.BadRequestError, match="`verbosity` is not supported"):
        client.chat.completions.create(model="tgi", messages=MESSAGES, max_tokens=4, verbosity="low")


def test_choices_are_as_many_as_asked_for_and_greedy_ones_agree(client):
    options = {"model": "tgi", "messages": MESSAGES, "max_tokens": 4, "temperature": 0}
    completion = client.chat.completions.create(**options, n=2)
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert completion.choices[0].message.content == completion.choices[1].message.content


def test_a_bad_value_is_refused_with_its_limit(client):
    with pytest.raises(openai.BadRequestError, match="top_p"):
        client.chat.completions.create(model="tgi", messages=MESSAGES, max_tokens=4, top_p=1.5)
