"""`huggingface_hub.InferenceClient`, unmodified, against the real model."""

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import ValidationError

PROMPT = "The capital of France is"
MESSAGES = [{"role": "user", "content": "Name one colour."}]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def client(server):
    return InferenceClient(model=server.url, provider="hf-inference")


def test_text_generation_returns_the_continuation(client):
    text = client.text_generation(PROMPT, return_full_text=False, max_new_tokens=8)
    assert "Paris" in text


def test_text_generation_at_the_root_repeats_the_prompt_as_tgi_does(client):
    assert client.text_generation(PROMPT, max_new_tokens=2).startswith(PROMPT)


def test_text_generation_with_details_counts_its_tokens(client):
    output = client.text_generation(PROMPT, return_full_text=False, max_new_tokens=8, details=True)
    assert output.details.finish_reason == "length"
    assert output.details.generated_tokens == 8 == len(output.details.tokens)
    assert "".join(token.text for token in output.details.tokens) == output.generated_text
    assert all(token.logprob <= 0 for token in output.details.tokens)


def test_text_generation_streams_what_it_returns_whole(client):
    whole = client.text_generation(PROMPT, return_full_text=False, max_new_tokens=12)
    assert "".join(client.text_generation(PROMPT, return_full_text=False, max_new_tokens=12, stream=True)) == whole


def test_text_generation_streamed_details_end_with_the_text(client):
    events = list(client.text_generation(PROMPT, return_full_text=False, max_new_tokens=6, stream=True, details=True))
    assert [event.index for event in events] == [1, 2, 3, 4, 5, 6]
    assert all(event.generated_text is None and event.details is None for event in events[:-1])
    assert events[-1].generated_text == "".join(event.token.text for event in events)
    assert events[-1].details.finish_reason == "length"
    assert events[-1].details.input_length == 5


def test_text_generation_takes_the_usual_sampling_options(client):
    options = {
        "max_new_tokens": 10,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 20,
        "repetition_penalty": 1.05,
        "seed": 3,
    }
    assert client.text_generation(PROMPT, **options) == client.text_generation(PROMPT, **options)


def test_a_stop_string_stays_at_the_end_of_native_text(client):
    output = client.text_generation("1, 2, 3, 4,", return_full_text=False, max_new_tokens=30, stop=[" 8"], details=True)
    assert output.generated_text.endswith(" 8")
    assert output.details.finish_reason == "stop_sequence"


def test_a_bad_parameter_is_a_validation_error(client):
    with pytest.raises(ValidationError, match="temperature"):
        client.text_generation(PROMPT, return_full_text=False, max_new_tokens=4, temperature=-1.0)


def test_chat_completion_answers(client):
    output = client.chat_completion(MESSAGES, max_tokens=16, temperature=0)
    choice = output.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in {"stop", "length"}
    assert output.usage.total_tokens == output.usage.prompt_tokens + output.usage.completion_tokens


def test_chat_completion_streams_what_it_returns_whole(client):
    whole = client.chat_completion(MESSAGES, max_tokens=16, temperature=0).choices[0]
    chunks = list(client.chat_completion(MESSAGES, max_tokens=16, temperature=0, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.message.content
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason


def test_health_check_is_true(client):
    assert client.health_check() is True


def test_endpoint_info_names_the_model_and_its_limits(client):
    info = client.get_endpoint_info()
    assert "SmolLM2-135M-Instruct" in info["model_id"]
    assert info["max_total_tokens"] == 8192
    assert info["max_input_tokens"] == 8191
