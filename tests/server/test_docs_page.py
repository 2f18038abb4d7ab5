"""The documentation: whole, without other servers, and no way around the token."""

import re
from importlib import metadata

import pytest
from serving import call, group
from yarl import URL


async def test_the_page_needs_no_other_server(serve, token):
    server = await serve(serve=token)
    status, _, page = await call(f"{server.url}/docs")
    assert status == 200
    found = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
    assert len(found) >= 2
    assert "http" not in "".join(found)
    for path in found:
        assert (await call(f"{server.url}{path}", method="HEAD"))[0] == 200


@pytest.mark.parametrize("path", ["/docs-files/../metrics", "/docs-files/%2e%2e/metrics"])
async def test_the_pages_files_are_no_way_around_the_token(serve, token, path):
    server = await serve(serve=token)
    status, _, _ = await call(URL(f"{server.url}{path}", encoded=True))
    assert status in (401, 404)


async def test_every_field_has_a_meaning_and_the_token_is_declared(serve, token):
    server = await serve(serve=token)
    _, _, document = await call(f"{server.url}/openapi.json")
    own = {
        name: schema
        for name, schema in document["components"]["schemas"].items()
        if "Validation" not in name
    }
    silent = [
        f"{name}.{field}"
        for name, schema in own.items()
        for field, about in schema["properties"].items()
        if not about.get("description")
    ]
    assert silent == []
    [scheme] = document["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")


async def test_the_documents_version_is_the_packages(serve):
    server = await serve()
    _, _, document = await call(f"{server.url}/openapi.json")
    assert document["info"]["version"] == metadata.version("spct-plugin")


async def test_without_a_token_none_is_declared(serve):
    server = await serve()
    _, _, document = await call(f"{server.url}/openapi.json")
    assert "securitySchemes" not in document["components"]
    assert (await call(f"{server.url}/v1/rewards", {"groups": [group("a")]}))[0] == 200
