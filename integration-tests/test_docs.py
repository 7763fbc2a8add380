"""`/docs`, as a browser without the internet loads it."""

import gzip
import json
import re


def load(server, path):
    status, headers, content = server.request("GET", path)
    assert status == 200, path
    return headers, gzip.decompress(content) if headers.get("content-encoding") == "gzip" else content


def test_the_page_and_all_that_it_loads_come_from_the_server(server):
    headers, html = load(server, "/docs/")
    assert headers["content-type"] == "text/html"
    links = re.findall(r'(?:src|href)="([^"]*)"', html.decode())
    assert len(links) >= 6
    for link in links:
        assert "//" not in link
        headers, content = load(server, f"/docs/{link.removeprefix('./')}")
        assert headers["content-security-policy"].startswith("default-src 'self';")
        assert content
    assert b"<script>" not in html, "the policy allows scripts of files alone"


def test_it_shows_the_document_that_the_server_gives(server):
    _, script = load(server, "/docs/swagger-initializer.js")
    url = re.search(r'"url": "\.\.([^"]*)"', script.decode())[1]
    document = json.loads(load(server, url)[1])
    assert document["openapi"].startswith("3.1")
    assert document == json.loads(load(server, "/api-doc/openapi.json")[1])
    for reference in set(re.findall(r'"\$ref": *"#/components/schemas/(\w+)"', json.dumps(document))):
        assert reference in document["components"]["schemas"]
