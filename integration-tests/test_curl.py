"""`curl -N`: the bytes on the wire, as scripts and other languages' clients read them."""

import json
import subprocess

import pytest

pytestmark = pytest.mark.timeout(300)


def curl(server, path, body, *options):
    command = ["curl", "-sS", "-N", *options, f"{server.url}{path}", "-H", "content-type: application/json"]
    return subprocess.run([*command, "-d", json.dumps(body)], check=True, capture_output=True).stdout.decode()


def test_the_native_stream_is_one_data_line_an_event_and_ends_by_closing(server):
    body = {"inputs": "The capital of France is", "parameters": {"max_new_tokens": 4}}
    output = curl(server, "/generate_stream", body)
    events = output.split("\n\n")
    assert events.pop() == ""
    assert len(events) == 4
    assert all(event.startswith("data: {") and "\n" not in event for event in events)
    assert "[DONE]" not in output
    assert json.loads(events[-1][6:])["generated_text"]


def test_the_openai_stream_ends_with_done(server):
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "stream": True}
    output = curl(server, "/v1/chat/completions", body)
    assert output.endswith("data: [DONE]\n\n")


def test_the_stream_says_what_it_is(server):
    body = {"inputs": "a", "parameters": {"max_new_tokens": 1}}
    head = curl(server, "/generate_stream", body, "-i").split("\r\n\r\n")[0].lower()
    assert "content-type: text/event-stream" in head
    assert "cache-control: no-cache" in head
    assert "x-accel-buffering: no" in head


def test_the_root_answers_an_array_and_generate_an_object(server):
    body = {"inputs": "a", "parameters": {"max_new_tokens": 1, "return_full_text": False}}
    assert isinstance(json.loads(curl(server, "/", body)), list)
    assert isinstance(json.loads(curl(server, "/generate", body)), dict)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{", "400"),
        ('{"inputs": 5}', "422"),
        ('{"inputs": ""}', "422"),
        ('{"inputs": "a", "parameters": {"top_k": 0}}', "422"),
    ],
)
def test_errors_are_json_with_the_right_status(server, body, status):
    command = ["curl", "-sS", "-w", "\n%{http_code}", f"{server.url}/generate", "-H", "content-type: application/json"]
    output = subprocess.run([*command, "-d", body], check=True, capture_output=True, text=True).stdout
    content, code = output.rsplit("\n", 1)
    assert code == status
    assert set(json.loads(content)) >= {"error", "error_type"}


def test_tokenize_gives_byte_offsets(server):
    tokens = server.post("/tokenize", {"inputs": "héllo 12"})
    assert [set(token) for token in tokens] == [{"id", "text", "start", "stop"}] * len(tokens)
    assert tokens[-1]["stop"] == len("héllo 12".encode())


def test_metrics_are_prometheus_text(server):
    status, headers, content = server.request("GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert b"tgi_request_count" in content
