"""Downloads from a server on this machine: resumed, checked, never half in place."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from certidote.cli import main
from certidote.data import fetch as fetching
from certidote.data.fetch import SOURCES, Source, fetch
from certidote.streams import Key

CONTENT = Key(1).numpy().bytes(3_000_000)
SOURCE = Source("set.tar.gz", (), hashlib.md5(CONTENT).hexdigest(), len(CONTENT))


class Server:
    """Counts what is asked for and misbehaves by path."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                outer.requests.append((self.path, wanted))
                content = {"/wrong": CONTENT[::-1], "/long": CONTENT + b"x", "/short": CONTENT[:-7]}.get(self.path, CONTENT)
                if self.path == "/error":
                    self.send_error(503)
                    return
                start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.path != "/whole" else 0
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                cut = content[start:2_000_000] if self.path == "/breaks" else content[start:]
                self.wfile.write(cut)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.http.server_port}{path}"

    def stop(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_download_and_nothing_else_left(tmp_path: Path, server: Server) -> None:
    found = fetch(SOURCE, tmp_path / "new" / "folder", [server.url("/")])
    assert found.read_bytes() == CONTENT
    assert names(found.parent) == ["set.tar.gz"]
    assert fetch(SOURCE, found.parent, [server.url("/error")]) == found, "what is there is not asked for again"
    assert len(server.requests) == 1


def test_a_broken_download_goes_on_where_it_stopped(tmp_path: Path, server: Server) -> None:
    with pytest.raises(OSError, match=r"/breaks: .*(stopped after 2,000,000|IncompleteRead|more expected)"):
        fetch(SOURCE, tmp_path, [server.url("/breaks")])
    assert names(tmp_path) == ["set.tar.gz.part"]
    got = (tmp_path / "set.tar.gz.part").stat().st_size
    assert got > 0
    assert fetch(SOURCE, tmp_path, [server.url("/")]).read_bytes() == CONTENT
    assert server.requests[-1] == ("/", f"bytes={got}-")
    assert names(tmp_path) == ["set.tar.gz"]


def test_a_server_without_ranges_starts_again(tmp_path: Path, server: Server) -> None:
    (tmp_path / "set.tar.gz.part").write_bytes(b"x" * 1_000)
    assert fetch(SOURCE, tmp_path, [server.url("/whole")]).read_bytes() == CONTENT


def test_a_damaged_part_is_thrown_away_and_the_next_mirror_asked(tmp_path: Path, server: Server) -> None:
    (tmp_path / "set.tar.gz.part").write_bytes(b"x" * 1_000)
    assert fetch(SOURCE, tmp_path, [server.url("/"), server.url("/again")]).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == ["bytes=1000-", None]


def test_every_failure_is_told_with_what_to_do(tmp_path: Path, server: Server) -> None:
    mirrors = [server.url(path) for path in ("/error", "/wrong", "/long", "/short")] + ["ftp://elsewhere/x", "http://127.0.0.1:1/x"]
    with pytest.raises(OSError, match="set.tar.gz could not be had") as caught:
        fetch(SOURCE, tmp_path, mirrors)
    message = str(caught.value)
    for part in (
        "/error: answered 503 Service Unavailable", f"/wrong: MD5 sum {hashlib.md5(CONTENT[::-1]).hexdigest()} in place of {SOURCE.md5}",
        "/long: it sends more than the 3,000,000 bytes", "/short: it stopped after 2,999,993 of 3,000,000 bytes", "no http or https address",
        "refused", f"check that its MD5 sum is {SOURCE.md5}", str(tmp_path / "set.tar.gz"),
    ):  # fmt: skip
        assert part in message
    assert "\n" not in message
    assert not (tmp_path / "set.tar.gz").exists()


def test_another_file_in_the_way_is_kept(tmp_path: Path, server: Server) -> None:
    (tmp_path / "set.tar.gz").write_bytes(b"mine")
    with pytest.raises(ValueError, match="is there already, but its MD5 sum is not"):
        fetch(SOURCE, tmp_path, [server.url("/")])
    assert (tmp_path / "set.tar.gz").read_bytes() == b"mine"
    assert not server.requests


def test_the_command(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(fetching.SOURCES, "cifar10", SOURCE)
    arguments = ["certidote", "data", "fetch", "cifar10", "--out", str(tmp_path), "--mirror", server.url("/")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    assert str(tmp_path / "set.tar.gz") in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["certidote", "data", "fetch", "mnist", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "nothing to fetch is called 'mnist'; choose one of: cifar10, cifar10-binary" in capsys.readouterr().err


def test_what_is_known_has_the_published_sums() -> None:
    assert SOURCES["cifar10"].md5 == "c58f30108f718f92721af3b95e74349a"
    assert SOURCES["cifar10-binary"].md5 == "c32a1d4ab5d03f1284b67883e8d87530"
    for source in SOURCES.values():
        assert source.mirrors[0].startswith("https://www.cs.toronto.edu/~kriz/")
        assert all(url.startswith("https://") and url.endswith(source.file) for url in source.mirrors)
