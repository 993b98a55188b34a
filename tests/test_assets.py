"""Downloads against a local server whose faults are switched on one by one."""

import errno
import hashlib
import io
import os
import random
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
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


@pytest.fixture
def server(server):
    server.content = GOOD
    return server


@pytest.fixture
def listed(server, monkeypatch):
    """Put one file with these URLs on the manifest; a change to None takes a key away."""

    def put(*urls, **changes):
        entry = {**ENTRY, "urls": urls, **changes}
        entry = {key: value for key, value in entry.items() if value is not None}
        monkeypatch.setattr(assets, "manifest", lambda: {"file.bin": entry})
        server.requests.clear()

    return put


def faults_of(requests):
    return [fault for fault, _ in requests]


def assert_only_the_good_file(folder):
    """The next good call has worked, and nothing half-written is left."""
    assert asset("file.bin").read_bytes() == GOOD
    files = {path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert files == {folder / "file.bin"}


def test_a_good_download_is_kept_and_not_repeated(server, listed, empty_cache):
    listed(f"{server}/good/file.bin")
    assert_only_the_good_file(empty_cache)
    asset("file.bin")
    assert faults_of(server.requests) == ["good"]


def test_the_next_mirror_is_tried(server, listed, empty_cache):
    listed(f"{server}/missing/file.bin", f"{server}/wrong/file.bin", f"{server}/good/file.bin")
    assert_only_the_good_file(empty_cache)
    assert faults_of(server.requests) == ["missing", "wrong", "good"]


@pytest.mark.parametrize(
    "fault, reason",
    [
        ("missing", "answered 404"),
        ("cut+no-range", "broke off before the end"),
        ("wrong", "wrong sha256"),
        ("longer", "300,001 bytes instead of 300,000"),
        ("silent", "did not answer within 0.5 s"),
    ],
)
def test_a_faulty_server_is_told_with_its_reason(
    fault, reason, server, listed, empty_cache, monkeypatch
):
    monkeypatch.setattr(assets, "SECONDS_WITHOUT_A_BYTE", 0.5)
    server.cuts = [100_000] * 9
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


# Connections that break off


@pytest.mark.parametrize("seed", range(5))
def test_a_connection_cut_at_a_random_byte_is_taken_up_there(seed, server, listed, empty_cache):
    listed(f"{server}/cut/file.bin")
    server.cuts = sorted(random.Random(seed).sample(range(assets.CHUNK, len(GOOD)), 2))
    cuts = list(server.cuts)
    assert_only_the_good_file(empty_cache)
    starts = [start for _, start in server.requests]
    assert len(starts) == 3
    assert starts[0] == 0  # control: nothing had been there
    for start, cut in zip(starts[1:], cuts, strict=True):
        assert cut - assets.CHUNK < start <= cut


def test_a_server_without_ranges_sends_the_whole_file_again(server, listed, empty_cache):
    listed(f"{server}/cut+no-range/file.bin")
    server.cuts = [200_000]
    assert_only_the_good_file(empty_cache)
    assert len(server.requests) == 2


def test_the_next_call_goes_on_where_the_last_one_ended(server, listed, empty_cache):
    listed(f"{server}/cut/file.bin")
    server.cuts = [200_000, 0]  # the second connection brings nothing
    with pytest.raises(AssetError, match=r"broke off(.|\n)*What has come so far is kept \(1\d\d,"):
        asset("file.bin")
    assert not (empty_cache / "file.bin").exists()
    listed(f"{server}/good/file.bin")
    assert_only_the_good_file(empty_cache)
    assert len(server.requests) == 1
    assert server.requests[0][1] > 200_000 - assets.CHUNK


def test_a_beginning_of_other_bytes_is_not_kept_for_ever(server, listed, empty_cache):
    listed(f"{server}/cut+wrong/file.bin", f"{server}/good/file.bin")
    server.cuts = [200_000, 0]
    assert_only_the_good_file(empty_cache)
    goods = [start for fault, start in server.requests if fault == "good"]
    assert goods[0] > 0  # it went on with the wrong beginning
    assert goods[1:] == [0]  # and began again


def test_an_unfinished_file_that_is_too_long_is_begun_again(server, listed, empty_cache):
    listed(f"{server}/good/file.bin")
    (empty_cache / "unfinished").mkdir(parents=True)
    (empty_cache / "unfinished" / "file.bin.part").write_bytes(GOOD + b"!")
    assert_only_the_good_file(empty_cache)
    assert [start for _, start in server.requests] == [len(GOOD) + 1, 0]


# Files without a sha256 of ours


def test_the_hubs_own_sha256_serves_where_the_manifest_has_none(server, listed, empty_cache):
    listed(f"{server}/hub/file.bin", sha256=None, size=None)
    server.vouched = ENTRY["sha256"]
    assert_only_the_good_file(empty_cache)
    (empty_cache / "file.bin").unlink()
    server.vouched = hashlib.sha256(b"").hexdigest()  # control
    with pytest.raises(AssetError, match="wrong sha256"):
        asset("file.bin")


def test_a_file_that_nobody_vouches_for_is_refused(server, listed, empty_cache):
    listed(f"{server}/good/file.bin", sha256=None, size=None)
    with pytest.raises(AssetError, match="the server names none either"):
        asset("file.bin")
    assert not (empty_cache / "file.bin").exists()
    listed(f"{server}/good/file.bin")  # control
    assert_only_the_good_file(empty_cache)


def test_the_manifests_sha256_comes_before_the_hubs(server, listed, empty_cache):
    listed(f"{server}/hub+wrong/file.bin")
    server.vouched = hashlib.sha256(GOOD[::-1]).hexdigest()
    with pytest.raises(AssetError, match="wrong sha256"):
        asset("file.bin")
    listed(f"{server}/hub+wrong/file.bin", sha256=None)  # control
    assert asset("file.bin").read_bytes() == GOOD[::-1]


def test_a_folder_of_ones_own_is_used_instead_of_the_cache(server, listed, empty_cache, tmp_path):
    listed(f"{server}/good/file.bin")
    assert asset("file.bin", tmp_path / "mine") == tmp_path / "mine" / "file.bin"
    assert asset("file.bin", tmp_path / "mine").read_bytes() == GOOD
    assert len(server.requests) == 1
    assert not empty_cache.exists()
    asset("file.bin")  # control
    assert (empty_cache / "file.bin").exists()


# Faults of this machine


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

    with monkeypatch.context() as patch:
        patch.setattr(assets, "open", FileOnAFullDisk, raising=False)
        with pytest.raises(AssetError, match=os.strerror(errno.ENOSPC)) as error:
            asset("file.bin")
    assert "COMPANION_CACHE" in str(error.value)
    assert faults_of(server.requests) == ["good"]  # the second mirror was not bothered
    assert_only_the_good_file(empty_cache)


FETCH = """
import sys
from companion import asset, assets
{lead}
assets.manifest = lambda: {{"file.bin": {entry!r}}}
print("fetching", flush=True)
try:
    asset("file.bin")
except assets.AssetError as error:
    sys.exit(str(error))
"""


BEFORE_OR_WHILE_WRITING = [
    ("", ", 300,000 bytes are needed"),
    ("assets._check_room = lambda *_: None", ". Make room"),
]


def start_fetching(url, cache, before=(), lead=""):
    code = FETCH.format(lead=lead, entry={**ENTRY, "urls": [url]})
    return subprocess.Popen(
        [*before, sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "COMPANION_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs Linux's unshare")
@pytest.mark.parametrize("lead, reason", BEFORE_OR_WHILE_WRITING)
def test_a_disk_that_is_really_full_is_told(lead, reason, server, tmp_path):
    """A mount of 64 kB, in a namespace of its own, for a file of 300 kB."""
    mount = f'mount -t tmpfs -o size=64k tmpfs {tmp_path} && exec "$@"'
    before = ["unshare", "-rm", "sh", "-c", mount, "sh"]
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("this system does not allow mounts in a namespace of one's own")
    process = start_fetching(f"{server}/good/file.bin", tmp_path / "cache", before, lead)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 1
    assert os.strerror(errno.ENOSPC) + reason in message
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
    assert faults_of(server.requests) == ["slow"]
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
    assert faults_of(server.requests) == []
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
        vouching = set() if "asked_for_by" in entry else {"size", "sha256"}
        assert {"what", "license"} | vouching <= entry.keys()
        assert "path" in entry or entry["urls"]


def test_the_books_story_is_the_one_listed(book_cache, verdict):
    assert asset("the-verdict.txt") == book_cache / "the-verdict.txt"
    assert len(verdict.read_text(encoding="utf-8")) == 20_479
