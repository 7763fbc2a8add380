"""`text_generation.Client`, TGI's own client, unmodified."""

import pytest
from text_generation import Client
from text_generation.errors import ValidationError
from text_generation.types import Message

PROMPT = "The capital of France is"

# The client still uses pydantic's first interface.
pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(scope="module")
def client(server):
    return Client(server.url, timeout=60)


def test_generate_returns_text_and_details(client):
    response = client.generate(PROMPT, max_new_tokens=8)
    assert "Paris" in response.generated_text
    assert response.details.generated_tokens == 8
    assert response.details.finish_reason == "length"
    assert response.details.seed is None


def test_a_sampled_generation_reports_the_seed_it_used(client):
    first = client.generate(PROMPT, max_new_tokens=8, do_sample=True)
    again = client.generate(PROMPT, max_new_tokens=8, do_sample=True, seed=first.details.seed)
    assert again.generated_text == first.generated_text


def test_generate_stream_ends_with_the_whole_text(client):
    events = list(client.generate_stream(PROMPT, max_new_tokens=8))
    assert "".join(event.token.text for event in events if not event.token.special) == events[-1].generated_text
    assert events[-1].details.generated_tokens == 8


def test_too_many_tokens_are_a_validation_error(client):
    with pytest.raises(ValidationError, match="max_new_tokens"):
        client.generate(PROMPT, max_new_tokens=10_000)


def test_chat_answers(client):
    answer = client.chat([Message(role="user", content="Say hello.")], max_tokens=8, temperature=0.5, seed=1)
    assert answer.choices[0].message.content
