"""The plain HTTP side: every path, with and without the page, the bundle and the right to look.

Rules of this file: no server and no socket; a small fake stands for the server, and a folder of
the test's own for the files, except where the real page is what is tested.
"""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tokenwire.types import Headers, Peer, Request, Response
from tokenwire_cli.site import Site, UpstreamStatus

BUNDLE = ["socket.io.js", "socket.io.min.js", "socket.io.esm.min.js"]
PAGE = Path(__file__).parents[2] / "runtimes" / "tokenwire_cli" / "page"


class Stats(msgspec.Struct, rename="camel"):
    total_streams: int = 3


class FakeServer:
    """What `Operated` asks for."""

    def __init__(self, upstream: UpstreamStatus = "ok") -> None:
        self.upstream: UpstreamStatus = upstream

    def stats(self) -> Stats:
        return Stats()

    def upstream_status(self) -> UpstreamStatus:
        return self.upstream


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A page folder with the bundle, and a file that nothing may give away."""
    for name in ("index.html", "page.js", "page.css", "secret.txt"):
        (tmp_path / name).write_text(f"content of {name}")
    (tmp_path / "vendor").mkdir()
    for name in BUNDLE:
        (tmp_path / "vendor" / name).write_text(f"content of {name}")
    return tmp_path


def site(
    folder: Path | None = None,
    *,
    page: bool = True,
    stats_open: bool = False,
    upstream: UpstreamStatus = "ok",
) -> Site:
    return Site(
        FakeServer(upstream),
        page=page,
        stats_open=stats_open,
        default_model="codellama",
        folder=folder,
    )


def ask(
    site: Site,
    path: str,
    method: str = "GET",
    *,
    host: str | None = "127.0.0.1",
    headers: Headers = (),
) -> Response:
    return site.respond(Request(method, path, headers=headers, peer=Peer(host, 50_000)))


def header(response: Response, name: str) -> str | None:
    return dict(response.headers).get(name)


def content(response: Response) -> dict[str, Any]:
    assert header(response, "content-type") == "application/json"
    return msgspec.json.decode(response.body, type=dict[str, Any])


@pytest.mark.parametrize("upstream", ["ok", "down", "unknown"])
def test_health_is_ok_whatever_the_model_server_does(
    folder: Path, upstream: UpstreamStatus
) -> None:
    response = ask(site(folder, upstream=upstream), "/healthz")
    assert response.status == 200
    health = content(response)
    assert health.pop("version")
    assert health == {"status": "ok", "upstream": upstream}
    assert header(response, "cache-control") == "no-store"


def test_health_is_read_anew_each_time(folder: Path) -> None:
    server = FakeServer("unknown")
    asked = Site(server, page=True, stats_open=False, default_model="m", folder=folder)
    assert content(ask(asked, "/healthz"))["upstream"] == "unknown"
    server.upstream = "down"
    assert content(ask(asked, "/healthz"))["upstream"] == "down"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
def test_statistics_for_this_machine(folder: Path, host: str) -> None:
    response = ask(site(folder), "/stats", host=host)
    assert response.status == 200
    assert content(response) == {"totalStreams": 3}


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("localhost:3000", 200),
        ("127.0.0.1", 200),
        ("[::1]:3000", 200),
        ("evil.example:3000", 403),
        ("localhost.evil.example", 403),
    ],
)
def test_statistics_under_a_name_of_this_machine_only(folder: Path, name: str, status: int) -> None:
    """DNS rebinding: a page of evil.example, whose name points at 127.0.0.1 now."""
    request = Request("GET", "/stats", headers=(("host", name),), peer=Peer("127.0.0.1", 1))
    assert site(folder).respond(request).status == status


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "10.0.0.1", "::ffff:192.0.2.1", "2001:db8::1", "localhost", "", None]
)
def test_statistics_for_others_only_when_opened(folder: Path, host: str | None) -> None:
    refused = ask(site(folder), "/stats", host=host)
    assert refused.status == 403
    assert "STATS_ACCESS=open" in content(refused)["details"]
    opened = ask(site(folder, stats_open=True), "/stats", host=host)
    assert content(opened) == {"totalStreams": 3}


@pytest.mark.parametrize("field", ["forwarded", "x-forwarded-for"])
def test_a_proxy_on_this_machine_is_not_this_machine(folder: Path, field: str) -> None:
    headers = ((field, "192.0.2.1"),)
    assert ask(site(folder), "/stats", headers=headers).status == 403


@pytest.mark.parametrize(
    ("path", "name", "kind"),
    [
        ("/", "index.html", "text/html; charset=utf-8"),
        ("/page/page.js", "page.js", "text/javascript; charset=utf-8"),
        ("/page/page.css", "page.css", "text/css; charset=utf-8"),
        *(
            (f"/socket.io/{name}", name, "text/javascript; charset=utf-8")
            for name in ("socket.io.js", "socket.io.min.js", "socket.io.esm.min.js")
        ),
    ],
)
def test_files(folder: Path, path: str, name: str, kind: str) -> None:
    response = ask(site(folder), path)
    assert response.status == 200
    assert response.body == f"content of {name}".encode()
    assert header(response, "content-type") == kind
    assert header(response, "cache-control") == "no-cache"
    assert header(response, "x-content-type-options") == "nosniff"
    assert ask(site(folder), path, "HEAD") == response


def test_files_are_read_once(folder: Path) -> None:
    asked = site(folder)
    (folder / "index.html").write_text("changed")
    assert ask(asked, "/").body == b"content of index.html"


def test_source_maps_are_served_where_there_are_some(folder: Path) -> None:
    assert ask(site(folder), "/socket.io/socket.io.js.map").status == 404
    (folder / "vendor" / "socket.io.js.map").write_text("{}")
    assert content(ask(site(folder), "/socket.io/socket.io.js.map")) == {}


@pytest.mark.parametrize("path", ["/", "/page/page.js", "/socket.io/socket.io.js"])
def test_a_file_that_has_not_changed_is_not_sent_again(folder: Path, path: str) -> None:
    etag = header(ask(site(folder), path), "etag")
    assert etag is not None
    for field in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        response = ask(site(folder), path, headers=(("if-none-match", field),))
        assert response.status == 304
        assert response.body == b""
        assert header(response, "etag") == etag
    assert ask(site(folder), path, headers=(("if-none-match", '"other"'),)).status == 200


def test_the_page_allows_no_script_but_its_own(folder: Path) -> None:
    policy = header(ask(site(folder), "/"), "content-security-policy")
    assert policy is not None
    rules = policy.split("; ")
    assert "default-src 'none'" in rules
    assert "script-src 'self'" in rules
    assert "frame-ancestors 'none'" in rules
    assert "unsafe" not in policy


def test_the_page_is_told_the_default_model(folder: Path) -> None:
    assert content(ask(site(folder), "/page/config.json"))["defaultModel"] == "codellama"


@pytest.mark.parametrize("path", ["/", "/page/page.js", "/page/page.css", "/page/config.json"])
def test_without_the_page(folder: Path, path: str) -> None:
    response = ask(site(folder, page=False), path)
    assert response.status == 404
    assert "start with --page" in content(response)["details"]


def test_the_bundle_is_there_without_the_page(folder: Path) -> None:
    assert ask(site(folder, page=False), "/socket.io/socket.io.js").status == 200


@pytest.mark.parametrize("name", BUNDLE)
def test_built_without_npm(folder: Path, name: str) -> None:
    (folder / "vendor" / name).unlink()
    response = ask(site(folder), f"/socket.io/{name}")
    assert response.status == 404
    details = content(response)["details"]
    assert "without npm" in details
    assert "npm ci" in details


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/healthz", "/stats", "/socket.io/socket.io.js"])
def test_other_methods(folder: Path, path: str, method: str) -> None:
    response = ask(site(folder), path, method)
    assert response.status == 405
    assert header(response, "allow") == "GET, HEAD"
    assert content(response)["error"] == "method not allowed"


@pytest.mark.parametrize(
    "path",
    [
        "/secret.txt",
        "/page/secret.txt",
        "/page/",
        "/page/../secret.txt",
        "/page/%2e%2e/secret.txt",
        "/socket.io/../../secret.txt",
        "/index.html",
        "//",
        "",
        "*",
        "/healthz/",
    ],
)
def test_unknown_paths(folder: Path, path: str) -> None:
    response = ask(site(folder), path)
    assert response.status == 404
    assert content(response)["error"] == "not found"


def test_the_namespace_opened_as_a_page(folder: Path) -> None:
    response = ask(site(folder), "/ai")
    assert response.status == 404
    assert "namespace" in content(response)["details"]


class TestTheRealPage:
    """What the page's policy and its tests need of the files that ship."""

    def test_is_served(self) -> None:
        assert ask(site(), "/").body == (PAGE / "index.html").read_bytes()

    def test_has_nothing_that_its_policy_forbids(self) -> None:
        html = (PAGE / "index.html").read_text()
        assert not re.search(r"<script(?![^>]*\bsrc=)", html)
        assert not re.search(r"\s(style|on\w+)=", html)
        assert set(re.findall(r'<(?:script|link)[^>]*(?:src|href)="([^"]{,40})', html)) == {
            "/page/page.js",
            "/page/page.css",
            "data:image/svg+xml,%3Csvg xmlns='http://",
        }

    def test_never_makes_markup_of_text(self) -> None:
        script = (PAGE / "page.js").read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval", script)
