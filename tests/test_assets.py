"""Downloads against a local server whose faults are switched on one by one."""

import contextlib
import errno
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from companion import AssetError, asset, assets

GOOD = os.urandom(300_000)
ENTRY = {
    "what": "A file for tests",
    "license": "none",
    "size": len(GOOD),
    "sha256": hashlib.sha256(GOOD).hexdigest(),
    "meanwhile": "the-next-word.txt",
}


class FaultyHandler(BaseHTTPRequestHandler):
    """The path's first part names the fault."""

    requests = []  # noqa: RUF012 - one list for the server on purpose

    def do_GET(self):
        fault = self.path.split("/")[1]
        self.requests.append(fault)
        if fault == "missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(GOOD)))
        self.end_headers()
        body = {"wrong": GOOD[::-1], "truncated": GOOD[:1000]}.get(fault, GOOD)
        with contextlib.suppress(ConnectionError):  # the client may be killed
            if fault == "slow":
                for start in range(0, len(body), 3000):
                    self.wfile.write(body[start : start + 3000])
                    time.sleep(0.1)
            else:
                self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), FaultyHandler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


@pytest.fixture
def listed(monkeypatch):
    """Put one file with these URLs on the manifest."""

    def put(*urls):
        monkeypatch.setattr(assets, "manifest", lambda: {"file.bin": {**ENTRY, "urls": urls}})
        FaultyHandler.requests.clear()

    return put


def assert_only_the_good_file(folder):
    """The next good call has worked, and nothing half-written is left."""
    assert asset("file.bin").read_bytes() == GOOD
    files = {path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert files == {folder / "file.bin"}


def test_a_good_download_is_kept_and_not_repeated(server, listed, empty_cache):
    listed(f"{server}/good/file.bin")
    assert_only_the_good_file(empty_cache)
    asset("file.bin")
    assert FaultyHandler.requests == ["good"]


def test_the_next_mirror_is_tried(server, listed, empty_cache):
    listed(f"{server}/missing/file.bin", f"{server}/wrong/file.bin", f"{server}/good/file.bin")
    assert_only_the_good_file(empty_cache)
    assert FaultyHandler.requests == ["missing", "wrong", "good"]


@pytest.mark.parametrize(
    "fault, reason",
    [
        ("missing", "answered 404"),
        ("truncated", "broke off before the end"),
        ("wrong", "wrong sha256"),
    ],
)
def test_a_faulty_server_is_told_with_its_reason(fault, reason, server, listed, empty_cache):
    listed(f"{server}/{fault}/file.bin")
    with pytest.raises(AssetError, match=reason) as error:
        asset("file.bin")
    message = str(error.value)
    assert f"{server}/{fault}/file.bin" in message
    assert str(empty_cache / "file.bin") in message  # where to put it by hand
    assert ENTRY["sha256"] in message
    assert "the-next-word.txt" in message  # what serves meanwhile
    assert not (empty_cache / "file.bin").exists()
    listed(f"{server}/good/file.bin")
    assert_only_the_good_file(empty_cache)


def test_an_unreachable_host_is_told_as_such(server, listed, empty_cache):
    listed("http://127.0.0.1:9/file.bin")  # port 9, discard: nothing listens
    with pytest.raises(AssetError, match="could not be reached"):
        asset("file.bin")
    listed(f"{server}/good/file.bin")
    assert_only_the_good_file(empty_cache)


def test_a_damaged_file_in_the_cache_is_replaced(server, listed, empty_cache):
    listed(f"{server}/good/file.bin")
    empty_cache.mkdir()
    (empty_cache / "file.bin").write_bytes(GOOD[:-1] + b"x")
    assert_only_the_good_file(empty_cache)


class FileOnAFullDisk(io.FileIO):
    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told_at_once_and_no_mirror_is_blamed(
    server, listed, empty_cache, monkeypatch
):
    listed(f"{server}/good/file.bin", f"{server}/good/file.bin")

    import pooch.downloaders

    with monkeypatch.context() as patch:
        patch.setattr(pooch.downloaders, "open", FileOnAFullDisk, raising=False)
        with pytest.raises(AssetError, match=os.strerror(errno.ENOSPC)) as error:
            asset("file.bin")
    assert "COMPANION_CACHE" in str(error.value)
    assert FaultyHandler.requests == ["good"]  # the second mirror was not bothered
    assert_only_the_good_file(empty_cache)


FETCH = """
import sys
from companion import asset, assets
assets.manifest = lambda: {{"file.bin": {entry!r}}}
print("fetching", flush=True)
try:
    asset("file.bin")
except assets.AssetError as error:
    sys.exit(str(error))
"""


def start_fetching(url, cache, before=()):
    code = FETCH.format(entry={**ENTRY, "urls": [url]})
    return subprocess.Popen(
        [*before, sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "COMPANION_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs Linux's unshare")
def test_a_disk_that_is_really_full_is_told(server, tmp_path):
    """A mount of 64 kB, in a namespace of its own, for a file of 300 kB."""
    mount = f'mount -t tmpfs -o size=64k tmpfs {tmp_path} && exec "$@"'
    before = ["unshare", "-rm", "sh", "-c", mount, "sh"]
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("this system does not allow mounts in a namespace of one's own")
    process = start_fetching(f"{server}/good/file.bin", tmp_path / "cache", before)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 1
    assert os.strerror(errno.ENOSPC) in message
    assert "COMPANION_CACHE" in message


def test_a_process_killed_half_way_leaves_no_file_and_no_lock(server, listed, empty_cache):
    process = start_fetching(f"{server}/slow/file.bin", empty_cache)
    assert process.stdout.readline() == "fetching\n"
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size for path in empty_cache.rglob("*") if path.is_file()):
        assert time.monotonic() < deadline, "the download did not begin"
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert any(path.stat().st_size for path in empty_cache.rglob("*") if path.is_file())  # control
    assert not (empty_cache / "file.bin").exists()
    listed(f"{server}/good/file.bin")
    assert_only_the_good_file(empty_cache)


@pytest.mark.slow  # it starts processes
def test_two_processes_download_one_file_once(server, listed, empty_cache):
    listed()
    processes = [start_fetching(f"{server}/slow/file.bin", empty_cache) for _ in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    for process in processes:
        process.communicate()
    assert FaultyHandler.requests == ["slow"]
    assert_only_the_good_file(empty_cache)


@pytest.fixture
def read_only(empty_cache):
    """The cache folder, not writable, not even for root, who becomes someone else meanwhile."""
    if not hasattr(os, "seteuid"):
        pytest.skip("Windows has no folder permissions of this kind")
    empty_cache.mkdir()
    empty_cache.chmod(0o555)
    was_root = os.geteuid() == 0
    if was_root:
        temporary = Path(tempfile.gettempdir()).resolve()
        for folder in empty_cache.parents:
            if temporary in folder.parents:
                folder.chmod(0o755)  # pytest lets only its own user in
        os.seteuid(65534)
    yield empty_cache
    if was_root:
        os.seteuid(0)
    empty_cache.chmod(0o755)


def test_a_read_only_cache_is_told_with_the_way_out(server, listed, empty_cache, read_only):
    import filelock  # noqa: F401 - before a lesser user may not read the installation
    import pooch  # noqa: F401

    listed(f"{server}/good/file.bin")
    with pytest.raises(AssetError, match=os.strerror(errno.EACCES)) as error:
        asset("file.bin")
    assert "COMPANION_CACHE" in str(error.value)
    assert FaultyHandler.requests == []
    if os.getuid() == 0:
        os.seteuid(0)
    empty_cache.chmod(0o755)
    assert_only_the_good_file(empty_cache)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AssetError, match=r"no-such-file.*the-next-word\.txt.*the-verdict\.txt"):
        asset("no-such-file")


def test_an_altered_embedded_file_is_refused(monkeypatch, tmp_path):
    (tmp_path / "data").mkdir()
    story = asset("the-next-word.txt").read_bytes()
    monkeypatch.setattr(assets, "HERE", tmp_path)
    entry = dict(assets.manifest()["the-next-word.txt"])
    monkeypatch.setattr(assets, "manifest", lambda: {"the-next-word.txt": entry})
    (tmp_path / entry["path"]).write_bytes(story)
    assert asset("the-next-word.txt").read_bytes() == story  # control
    (tmp_path / entry["path"]).write_bytes(story[:-1] + b"?")
    with pytest.raises(AssetError, match="git checkout"):
        asset("the-next-word.txt")


def test_every_embedded_file_is_the_one_listed():
    for name, entry in assets.manifest().items():
        if "urls" not in entry:
            assert assets.is_verified(asset(name), entry)
        assert {"what", "license", "size", "sha256"} <= entry.keys()
        assert "path" in entry or entry["urls"]


def test_the_books_story_is_the_one_listed(book_cache, verdict):
    assert asset("the-verdict.txt") == book_cache / "the-verdict.txt"
    assert len(verdict.read_text(encoding="utf-8")) == 20_479
