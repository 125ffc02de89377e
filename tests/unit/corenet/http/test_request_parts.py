"""What requests are made of, without I/O: queries, multipart bodies, credentials, and which arguments exclude each
other."""

import asyncio
import hashlib
import io
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corenet.http import DigestAuth, Headers, HttpClient, InvalidUrl, NetrcAuth, ProxyError, Retries, parse_url
from corenet.http.auth import BasicAuth, BearerAuth, parse_challenges, split_credentials
from corenet.http.body_source import BodySource, file_source
from corenet.http.multipart import encode_multipart
from corenet.http.options import ClientOptions, prepare
from corenet.http.query import add_query, encode_pairs
from corenet.http.retries import RetryBudget, RetryState
from corenet.http.upload import Upload
from corenet.limits import (
    HTTP_DIGEST_CHALLENGES,
    HTTP_EXPECT_SIZE,
    HTTP_FILE_READ,
    HTTP_REQUESTS_PER_RETRY,
    HTTP_RETRY_BUDGET,
)


def read_all(source: BodySource) -> bytes:
    async def main() -> bytes:
        return b"".join([piece async for piece in source.pieces()])

    return asyncio.run(main())


# --- queries ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs", "encoded"),
    [
        ({"a": "b c", "d": 1}, "a=b+c&d=1"),
        ([("a", "1"), ("a", "2")], "a=1&a=2"),
        ({"a": ["x", None, 2.5]}, "a=x&a=2.5"),
        ({"yes": True, "no": False, "none": None}, "yes=true&no=false"),
        ({"~*-._": "ä&=#\ud800"}, "%7E*-._=%C3%A4%26%3D%23%EF%BF%BD"),
        ({"raw": b"\xff\x00"}, "raw=%FF%00"),
        ({}, ""),
    ],
)
def test_pairs_are_encoded_as_in_forms(pairs: Any, encoded: str) -> None:
    assert encode_pairs(pairs, "params") == encoded


@pytest.mark.parametrize("pairs", [{"a": object()}, [("a", "b", "c")], ["ab"], {1: "a"}, {"a": [[1]]}])
def test_values_that_are_not_pairs_are_refused(pairs: Any) -> None:
    with pytest.raises(TypeError, match="params"):
        encode_pairs(pairs, "params")


@pytest.mark.parametrize(
    ("url", "params", "result"),
    [
        ("http://h/p", {"a": 1}, "http://h/p?a=1"),
        ("http://h/p?b=2#f", {"a": 1}, "http://h/p?b=2&a=1#f"),
        ("http://h/p?", "?x=y z", "http://h/p?x=y z"),
        ("http://h/p#?", {"a": 1}, "http://h/p?a=1#?"),
        ("http://h/p?q", {}, "http://h/p?q"),
    ],
)
def test_params_are_added_to_the_query(url: str, params: Any, result: str) -> None:
    assert add_query(url, params) == result


# --- multipart --------------------------------------------------------------------------------------------------------


def test_a_form_with_files_is_encoded_as_browsers_do() -> None:
    files = [
        ("up", ("na\"me\r\n.txt", b"content", "text/plain")),
        ("ä", ("ü.bin", "text")),
        ("plain", (None, "value")),
    ]
    source = encode_multipart({'a"\nb': "x\ny"}, files, "BOUNDARY")
    assert read_all(source).decode() == (
        '--BOUNDARY\r\nContent-Disposition: form-data; name="a%22%0D%0Ab"\r\n\r\nx\r\ny\r\n'
        '--BOUNDARY\r\nContent-Disposition: form-data; name="up"; filename="na%22me%0D%0A.txt"\r\n'
        "Content-Type: text/plain\r\n\r\ncontent\r\n"
        '--BOUNDARY\r\nContent-Disposition: form-data; name="ä"; filename="ü.bin"\r\n'
        "Content-Type: application/octet-stream\r\n\r\ntext\r\n"
        '--BOUNDARY\r\nContent-Disposition: form-data; name="plain"\r\n\r\nvalue\r\n'
        "--BOUNDARY--\r\n"
    )
    assert source.length == len(read_all(source)) and source.repeatable


def test_files_are_read_from_disk_for_each_attempt(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    content = bytes(range(256)) * (HTTP_FILE_READ // 128)
    path.write_bytes(content)
    with path.open("rb") as file:
        file.seek(5)
        source = encode_multipart(None, {"a": path, "b": file}, "B")
        first, second = read_all(source), read_all(source)
        assert file.tell() == 5
    assert first == second and source.length == len(first)
    assert first.count(b'filename="page.html"\r\nContent-Type: text/html\r\n\r\n') == 2
    assert content in first and b"\r\n\r\n" + content[5:] + b"\r\n--B--\r\n" in first


def test_a_file_closed_during_the_upload_is_read_to_its_end(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"a" * (HTTP_FILE_READ + 1))
    other.write_bytes(b"b" * (HTTP_FILE_READ + 1))

    async def main() -> None:
        file = path.open("rb")
        source = file_source(file, "f")
        reading = source.pieces()
        first = await anext(reading)
        number = file.fileno()
        file.close()
        with other.open("rb") as taken:
            assert taken.fileno() == number
            assert first + await anext(reading) == b"a" * (HTTP_FILE_READ + 1)
            with pytest.raises(StopAsyncIteration):
                await anext(reading)
            with pytest.raises(ValueError, match="closed"):
                await anext(source.pieces())

    asyncio.run(main())


def test_other_file_objects_are_read_with_their_own_methods(tmp_path: Path) -> None:
    memory = io.BytesIO(b"0123456789")
    memory.seek(2)
    source = file_source(memory, "f")
    assert source.length == 8 and read_all(source) == read_all(source) == b"23456789"
    with tempfile.SpooledTemporaryFile() as spooled:
        spooled.write(b"abc")
        spooled.seek(0)
        assert read_all(file_source(spooled, "f")) == b"abc"

    class Once:
        left = [b"a", b"b", b""]

        def read(self, size: int) -> bytes:
            return self.left.pop(0)

    once = file_source(Once(), "f")
    assert (once.length, once.repeatable, read_all(once)) == (-1, False, b"ab")
    with (tmp_path / "t").open("w") as text, pytest.raises(TypeError, match="'rb'"):
        file_source(text, "f")
    with pytest.raises(OSError, match="not a regular file"):
        file_source(tmp_path, "f")


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({"a": 5}, TypeError),
        ({"a": (1, b"x")}, TypeError),
        ({"a": ("n",)}, TypeError),
        ([b"x"], TypeError),
        ({"a": ("n", b"x", "text/plain\r\nX: y")}, ValueError),
        ({"a": ("n", b"x", "täxt")}, ValueError),
    ],
)
def test_wrong_files_are_refused(files: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="files"):
        encode_multipart(None, files, "B")


# --- arguments --------------------------------------------------------------------------------------------------------

PLAIN = ClientOptions.of(headers=Headers())


@pytest.mark.parametrize(
    ("body", "options", "names"),
    [
        (b"x", {"json": 1}, "body= and json="),
        (None, {"content": b"", "data": {}}, "content= and data="),
        (None, {"json": {}, "data": {}, "files": {}}, "json= and data= and files="),
        (b"x", {"content": b"x"}, "body= and content="),
        (None, {"jsn": 1}, "no argument 'jsn'"),
        (None, {"data": b"x"}, "give bytes as content="),
        (None, {"content": "text"}, "encode str first"),
        (None, {"auth": "x"}, "auth="),
    ],
)
def test_contradicting_arguments_are_refused(body: Any, options: Any, names: str) -> None:
    async def main() -> None:
        async with HttpClient() as client:
            await client.request("POST", "http://127.0.0.1:9/", body=body, **options)

    with pytest.raises(TypeError, match=re.escape(names)):
        asyncio.run(main())


def test_none_counts_as_an_absent_argument() -> None:
    made = prepare(None, {"json": None, "data": None, "files": None, "content": None}, PLAIN)
    assert made.body is None
    assert prepare(None, {"data": {}}, PLAIN).body == b""
    assert prepare(None, {"json": {"ä": [1, None]}}, PLAIN).body == '{"ä":[1,null]}'.encode()
    with pytest.raises(ValueError, match="JSON"):
        prepare(None, {"json": float("nan")}, PLAIN)


def test_only_large_bodies_wait_for_100_continue() -> None:
    for body, waits in ((bytes(HTTP_EXPECT_SIZE), True), (bytes(HTTP_EXPECT_SIZE - 1), False), (None, False)):
        made = prepare(body, {"expect_continue": True}, PLAIN)
        assert isinstance(made.body, Upload) == waits


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("users", "https://api.example/v1/users"),
        ("/users?x", "https://api.example/v1/users?x"),
        ("", "https://api.example/v1"),
        ("?q=1", "https://api.example/v1?q=1"),
        ("//evil.example/x", "https://api.example/v1/evil.example/x"),
        ("ftp://evil.example/", "https://api.example/v1/ftp://evil.example/"),
        ("HTTP://other.example/", "HTTP://other.example/"),
    ],
)
def test_a_reference_stays_within_the_origin_of_the_base(given: str, sent: str) -> None:
    for base in ("https://api.example/v1", "https://api.example/v1/"):
        client = ClientOptions.of(base, headers=Headers())
        url = prepare(None, {}, client).url(given)[0]
        assert url.replace("/v1/?", "/v1?").removesuffix("/" if not given else "\0") == sent


def test_wrong_arguments_of_a_client() -> None:
    with pytest.raises(InvalidUrl, match="query"):
        HttpClient(base_url="https://h/?q")
    with pytest.raises(TypeError, match="auth"):
        HttpClient(auth=["a", "b"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="exclude"):
        HttpClient(auth=("a", "b"), headers={"Authorization": "x"})


# --- credentials ------------------------------------------------------------------------------------------------------

URL = parse_url("http://www.example.org/dir/index.html")


def test_basic_and_bearer_fields() -> None:
    # RFC 7617 sections 2 and 2.1.
    assert BasicAuth("Aladdin", "open sesame").authorize("GET", URL) == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    assert BasicAuth("test", "123£").authorize("GET", URL) == "Basic dGVzdDoxMjPCow=="
    assert BearerAuth("mF_9.B5f-4.1JqM").authorize("GET", URL) == "Bearer mF_9.B5f-4.1JqM"
    for user, password in (("a:b", "c"), ("a\n", "c"), ("a", "c\0")):
        with pytest.raises(ValueError, match=r"control|colon"):
            BasicAuth(user, password)
    for token in ("", "a b", "a\r\nX: y", "é"):
        with pytest.raises(ValueError, match="bearer"):
            BearerAuth(token)


def fields_of(value: str | None) -> dict[str, str]:
    assert value is not None
    [(scheme, fields)] = parse_challenges([value])
    assert scheme == "digest"
    return fields


NONCE = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
OPAQUE = "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"
CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_digest_reproduces_the_examples_of_rfc_7616(algorithm: str, response: str) -> None:
    """RFC 7616 section 3.9.1."""
    auth = DigestAuth("Mufasa", "Circle of Life", random=lambda: CNONCE)
    field = (
        f'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={algorithm}, '
        f'nonce="{NONCE}", opaque="{OPAQUE}"'
    )
    assert auth.authorize("GET", URL) is None
    assert auth.answer(URL, parse_challenges([field]), 0)
    fields = fields_of(auth.authorize("GET", URL))
    assert fields == {
        "username": "Mufasa", "realm": "http-auth@example.org", "uri": "/dir/index.html", "algorithm": algorithm,
        "nonce": NONCE, "nc": "00000001", "cnonce": CNONCE, "qop": "auth", "response": response, "opaque": OPAQUE,
    }  # fmt: skip
    assert fields_of(auth.authorize("GET", URL))["nc"] == "00000002"
    assert auth.authorize("GET", parse_url("http://other.example/")) is None


def test_digest_with_a_session_key_and_a_hashed_name() -> None:
    auth = DigestAuth("Jäsøn Doe", "secret", random=lambda: "cn")
    challenge = 'Digest realm="r\\"q", qop=auth, algorithm=MD5-sess, nonce="n", userhash=true'
    assert auth.answer(URL, parse_challenges([challenge]), 0)
    fields = fields_of(auth.authorize("PUT", URL))

    def h(text: str) -> str:
        return hashlib.md5(text.encode()).hexdigest()

    secret = h(h('Jäsøn Doe:r"q:secret') + ":n:cn")
    assert fields["response"] == h(f"{secret}:n:00000001:cn:auth:" + h("PUT:/dir/index.html"))
    assert fields["username"] == h('Jäsøn Doe:r"q') and fields["userhash"] == "true" and fields["realm"] == 'r"q'
    assert auth.answer(URL, parse_challenges(['Digest realm="r", qop=auth, nonce="n2"']), 0)
    assert "username*=UTF-8''J%C3%A4s%C3%B8n%20Doe, " in (auth.authorize("GET", URL) or "")


def test_digest_answers_a_stale_nonce_and_gives_up_a_wrong_password() -> None:
    auth = DigestAuth("u", "p")
    first = parse_challenges(['Digest realm="r", qop=auth, nonce="1"'])
    stale = parse_challenges(['Digest realm="r", qop=auth, nonce="2", stale=TRUE'])
    assert auth.answer(URL, first, 0)
    for answered in range(1, HTTP_DIGEST_CHALLENGES):
        assert auth.answer(URL, stale, answered)
    assert not auth.answer(URL, stale, HTTP_DIGEST_CHALLENGES)
    assert auth.answer(URL, first, 0) and not auth.answer(URL, first, 1)
    assert auth.authorize("GET", URL) is None


@pytest.mark.parametrize(
    "challenge",
    [
        'Digest realm="r", nonce="n"',
        'Digest realm="r", nonce="n", qop="auth-int"',
        'Digest realm="r", qop=auth',
        'Digest realm="r", nonce="n", qop=auth, algorithm=SHA-1',
        'Digest realm="r", nonce="n", nonce="m", qop=auth',
        'Basic realm="r"',
        "",
    ],
)
def test_digest_leaves_other_challenges_unanswered(challenge: str) -> None:
    assert not DigestAuth("u", "p").answer(URL, parse_challenges([challenge]), 0)


def test_challenges_are_parsed_separately() -> None:
    assert parse_challenges(
        ['Newauth realm="apps", type=1, title="Login to \\"apps\\"", Basic realm="simple"', "Negotiate dG9r==, X"]
    ) == [
        ("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps"'}),
        ("basic", {"realm": "simple"}),
        ("negotiate", {}),
        ("x", {}),
    ]
    assert parse_challenges(['Digest a="b" c=d, Basic e=f', '"x"', 'A b="']) == [("digest", {}), ("a", {})]


def test_netrc_credentials_are_found_by_host(tmp_path: Path) -> None:
    path = tmp_path / "netrc"
    path.write_text("machine WWW.example.org login u password p\ndefault login d password d\n")
    auth = NetrcAuth(path)
    assert auth.authorize("GET", URL) == BasicAuth("u", "p").authorize("GET", URL)
    assert auth.authorize("GET", parse_url("http://example.org/")) is None
    with pytest.raises(FileNotFoundError):
        NetrcAuth(tmp_path / "none")


@pytest.mark.parametrize(
    ("url", "rest", "user", "password"),
    [
        ("http://u:p@h/x@y", "http://h/x@y", "u", "p"),
        ("https://u%40x:p%3A:@h:8/?a#b", "https://h:8/?a#b", "u@x", "p::"),
        ("http://u@h", "http://h", "u", ""),
    ],
)
def test_credentials_in_a_url_are_used(url: str, rest: str, user: str, password: str) -> None:
    cut, auth = split_credentials(url)
    assert cut == rest and auth is not None
    assert auth.authorize("GET", URL) == BasicAuth(user, password).authorize("GET", URL)


@pytest.mark.parametrize("url", ["http://h/", "http://a@b@c/", "http://a\\@b/", "/p?x=http://u@h", "u@h"])
def test_ambiguous_urls_are_not_split(url: str) -> None:
    """`parse_url` refuses them then."""
    assert split_credentials(url) == (url, None)


# --- retries ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def far_time_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is nine hours ahead of GMT."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC-9")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("retry", "asked", "seconds"),
    [
        (0, None, 0.1),
        (3, None, 0.8),
        (50, None, 5.0),
        (0, "3", 3.0),
        (0, "10", 10.0),
        (0, "11", None),
        (0, "99999999999999999999", None),
        (0, "Sun, 06 Nov 1994 08:49:37 GMT", 7.0),
        (0, "Sun, 06 Nov 1994 08:49:00 GMT", 0.0),
        (0, "Mon, 07 Nov 1994 08:49:37 GMT", None),
        (0, "Sunday, 06-Nov-94 08:49:37 GMT", 7.0),
        (0, "Sun Nov  6 08:49:37 1994", 7.0),
        (0, "Sun, 06 Nov 1994 08:49:37 +0100", 0.1),
        (0, "soon", 0.1),
        (0, "-1", 0.1),
        (0, "Sun, 06 Nov 999999999 08:49:37 GMT", 0.1),
    ],
)
@pytest.mark.usefixtures("far_time_zone")
def test_how_long_a_retry_waits(retry: int, asked: str | None, seconds: float | None) -> None:
    assert Retries().delay(retry, asked, now=784111770.0, draw=0.5) == seconds


def test_the_budget_bounds_the_retries_of_a_client() -> None:
    budget = RetryBudget()
    assert [budget.take() for _ in range(HTTP_RETRY_BUDGET + 1)] == [True] * HTTP_RETRY_BUDGET + [False]
    for _ in range(HTTP_REQUESTS_PER_RETRY - 1):
        budget.deposit()
    assert not budget.take()
    RetryState(Retries(), budget)
    assert budget.take() and not budget.take()


@pytest.mark.parametrize(("status", "retried"), [(0, True), (407, False), (403, False), (502, True)])
def test_a_refusal_of_the_proxy_is_not_retried(status: int, retried: bool) -> None:
    state = RetryState(Retries(), RetryBudget())
    assert state.should_retry(ProxyError("refused", status), 100.0) is retried


def test_retries_are_checked() -> None:
    for wrong in ({"count": 0}, {"count": 21}, {"max_delay": -1}, {"max_delay": float("nan")}):
        with pytest.raises(ValueError, match="outside"):
            Retries(**wrong)  # type: ignore[arg-type]
