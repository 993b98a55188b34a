"""prepare_text.py and token_shards.py: from files of text to batches of token ids, and every fault
on the way."""

import errno
import gzip
import importlib.util
import io
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import psutil
import pytest
import tiktoken
import torch

import companion
import prepare_text
import token_shards
from companion.notebooks import ROOT
from prepare_text import find_files, groups_of, pieces_of, prepare, read_texts
from token_shards import ShardError, ShardWriter, TokenBatches, check_shards, random_order

END = 50256
SEPARATOR = "\n<|endoftext|>\n"


@pytest.fixture(scope="module")
def gpt2():
    companion.prepare_tokenizer()
    return tiktoken.get_encoding("gpt2")


def story(number, sentences=12):
    return " ".join(
        f"In year {number} the {i}th fox's den had {i * number} holes." for i in range(sentences)
    )


def write_stories(path, count, **kwargs):
    path.parent.mkdir(exist_ok=True)
    path.write_text(SEPARATOR.join(story(n, **kwargs) for n in range(count)), encoding="utf-8")
    return path


def read_split(folder, split="train"):
    """All ids of a split, and the sizes of its shards."""
    files = sorted(folder.glob(f"{split}-*.bin"))
    shards = [np.fromfile(path, dtype="<u2") for path in files]
    return np.concatenate([*shards, []]).astype(int).tolist(), [len(shard) for shard in shards]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


# Documents, pieces, tokens


def test_tokens_are_those_of_each_whole_document(tmp_path, gpt2):
    """Files, packed or not, in a folder's order, then files named; blank ends and a BOM dropped."""
    source = tmp_path / "texts"
    (source / "b").mkdir(parents=True)
    (source / "a.txt").write_bytes("\ufeffOne é\r\nline.\n\n<|endoftext|>\n\n Two.\n".encode())
    with gzip.open(source / "b" / "c.txt.gz", "wt", encoding="utf-8", newline="") as file:
        file.write(f"<|endoftext|>\nThree <|endoftext|> goes on.{SEPARATOR}<|endoftext|>\n")
        file.write("<|endoftext|> Four\n <|endoftext|>\nends.\n<|endoftext|>")
    (source / "notes.md").write_text("not a text file unless it is named", encoding="utf-8")
    (tmp_path / "last.md").write_text("Five", encoding="utf-8")
    manifest = prepare([source, tmp_path / "last.md"], tmp_path / "out", workers=1)

    documents = ["One é\nline.", "Two.", "Three <|endoftext|> goes on."]
    documents += ["<|endoftext|> Four\n <|endoftext|>\nends.", "Five"]
    expected = [id_ for text in documents for id_ in [*gpt2.encode_ordinary(text), END]]
    assert read_split(tmp_path / "out") == (expected, [len(expected)])
    names = [file["name"] for file in manifest["sources"]]
    assert names == ["texts/a.txt", "texts/b/c.txt.gz", "last.md"]
    assert [file["documents"] for file in manifest["sources"]] == [2, 2, 1]
    assert manifest["sources"][0]["bytes"] == (source / "a.txt").stat().st_size
    assert token_shards.read_manifest(tmp_path / "out") == manifest


def random_text(rng):
    parts = [*"ab19!?'", "'s", " ", "  ", "\n", "\n\n", "\xa0", "é", "<|endoftext|>", SEPARATOR]
    return "".join(rng.choices(parts, k=rng.randrange(120)))


def documents_by_line(text):
    """The same rule, written in another way."""
    documents = [[]]
    for line in text.split("\n"):
        if line == "<|endoftext|>":
            documents.append([])
        else:
            documents[-1].append(line)
    joined = ["\n".join(lines).strip() for lines in documents]
    return [document for document in joined if document]


@pytest.mark.parametrize("limit", [7, 30, 1000])
def test_pieces_do_not_depend_on_how_the_text_arrives(limit):
    rng = random.Random(limit)
    for _ in range(200):
        text = random_text(rng)
        places = sorted(rng.choices(range(len(text) + 1), k=rng.randrange(9)))
        parts = [text[a:b] for a, b in zip([0, *places], [*places, None], strict=True)]
        pieces = list(pieces_of(parts, limit))
        assert pieces == list(pieces_of([text], limit))
        assert all(len(piece) <= limit for piece, _ in pieces)
        documents = [""]
        for piece, ends in pieces:
            documents[-1] += piece
            if ends:
                documents.append("")
        assert documents.pop() == ""
        assert [document.rstrip() for document in documents] == documents_by_line(text)


def tokens_of(pieces, gpt2):
    return [id_ for piece in pieces for id_ in gpt2.encode_ordinary(piece)]


def test_a_cut_changes_no_token_where_there_are_blanks(gpt2):
    rng = random.Random(0)
    words = [
        "it's",
        "100",
        "--",
        "é!",
        "\u3000",
        "the",
        "<|endoftext|>",
        "\n",
        "\t",
        "  ",
        "\xa0\n",
    ]
    words += ["\n\n\n", "     ", "a", "a"]
    text = " ".join(rng.choices(words, k=500)).strip()
    whole = gpt2.encode_ordinary(text)
    for limit in range(40, 90):
        pieces = [piece for piece, _ in pieces_of([text], limit)]
        assert len(pieces) > len(text) / limit - 1 and "".join(pieces) == text
        assert tokens_of(pieces, gpt2) == whole
        blindly = [text[start : start + limit] for start in range(0, len(text), limit)]
        assert tokens_of(blindly, gpt2) != whole  # control


def test_a_cut_falls_at_the_limit_only_where_there_is_no_blank():
    # The line break in front of a document counts as a character of its first piece.
    assert [piece for piece, _ in pieces_of(["a" * 25], 10)] == ["a" * 9, "a" * 10, "a" * 6]
    assert [piece for piece, _ in pieces_of(["one two\nthree four"], 15)] == [
        "one two",
        "\nthree four",
    ]
    assert [piece for piece, _ in pieces_of(["one two three"], 9)] == ["one two", " three"]


# Held out


def test_held_out_documents_are_never_trained_on(tmp_path, gpt2):
    source = write_stories(tmp_path / "a.txt", 90)
    prepare([source], tmp_path / "out", val_share=0.1, workers=1)
    texts = {
        split: gpt2.decode(read_split(tmp_path / "out", split)[0]).split("<|endoftext|>")
        for split in ("train", "val")
    }
    assert texts["val"] == [*(story(n) for n in range(9, 90, 10)), ""]
    assert texts["train"] == [*(story(n) for n in range(90) if n % 10 != 9), ""]


def test_what_surrounds_a_held_out_piece_is_not_joined(tmp_path, monkeypatch, gpt2):
    cut_at_100 = lambda texts: pieces_of(texts, limit=100)  # noqa: E731
    monkeypatch.setattr(prepare_text, "pieces_of", cut_at_100)
    source = tmp_path / "a.txt"
    source.write_text(story(1, sentences=20), encoding="utf-8")
    pieces = [piece for piece, _ in cut_at_100([story(1, sentences=20)])]
    assert len(pieces) > 8
    prepare([source], tmp_path / "out", val_share=0.25, workers=1)
    train, val = (gpt2.decode(read_split(tmp_path / "out", s)[0]) for s in ("train", "val"))
    assert val == f"{pieces[3]}<|endoftext|>{pieces[7]}<|endoftext|>"
    rest = "".join(pieces[8:])
    assert train.startswith("".join(pieces[:3]) + "<|endoftext|>" + "".join(pieces[4:7]))
    assert len(pieces) > 11 or train.endswith(f"<|endoftext|>{rest}<|endoftext|>")


def test_a_share_that_holds_out_nothing_is_refused(tmp_path):
    source = write_stories(tmp_path / "a.txt", 9)
    with pytest.raises(ShardError, match=r"0\.1 of 9 pieces of text .* is less than one"):
        prepare([source], tmp_path / "out", val_share=0.1, workers=1)
    prepare([source], tmp_path / "out", val_share=0.12, workers=1)  # control; nothing was left


# Shards and manifest


def test_shards_have_the_size_asked_for_and_their_sha256(tmp_path):
    source = write_stories(tmp_path / "a.txt", 8)
    manifest = prepare([source], tmp_path / "out", shard_tokens=500, workers=1)
    ids, sizes = read_split(tmp_path / "out")
    assert set(sizes[:-1]) == {500} and 0 < sizes[-1] <= 500 and len(sizes) > 2
    assert [shard["tokens"] for shard in manifest["shards"]["train"]] == sizes
    assert max(ids) == END < manifest["vocab_size"] == 50257
    assert sorted(contents(tmp_path / "out")) == [
        "manifest.json",
        *(f"train-{number:05d}.bin" for number in range(len(sizes))),
    ]
    check_shards(tmp_path / "out")


def test_a_finished_folder_is_left_as_it_is(tmp_path):
    source = write_stories(tmp_path / "a.txt", 3)
    manifest = prepare([source], tmp_path / "out", workers=1)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("[!.]*")}
    assert prepare([source], tmp_path / "out", workers=1) == manifest
    assert {path: path.stat().st_mtime_ns for path in before} == before and len(before) == 2


def test_memory_does_not_grow_with_the_text(tmp_path):
    def peak(count, take):
        path = tmp_path / f"{count}.txt.gz"
        with gzip.open(path, "wt", compresslevel=1) as file:
            file.writelines(story(n % 97, sentences=200) + SEPARATOR for n in range(count))
        writer = ShardWriter(tmp_path, f"split-{count}", shard_tokens=100_000)
        tracemalloc.start()
        for group, _ in take(groups_of([path], prepare_text.Place(), val_share=0.1)):
            for text, _, _ in group:
                writer.write(np.frombuffer(text.encode(), dtype=np.uint8))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        writer.close()
        return most

    small, large = 40, 300  # 0.4 and 3 MB
    assert peak(large, iter) < 1.1 * peak(small, iter)
    assert peak(large, list) > 3 * peak(small, list)  # control: all groups at once


# Bad input


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "data, offset, byte",
    [
        (b"caf\xe9 noir", 3, "0xe9"),
        (b"a" * 65535 + b"\xc3!", 65535, "0xc3"),  # a character cut by the end of a block
        (b"a" * 70000 + b"\xc3\xa9 \xff", 70003, "0xff"),
        (b"cut off: \xe2\x82", 9, "0xe2"),
    ],
)
def test_text_that_is_not_utf8_is_told_with_file_and_offset(tmp_path, data, offset, byte, packed):
    good = write_stories(tmp_path / "a.txt", 1)
    bad = tmp_path / ("b.txt.gz" if packed else "b.txt")
    bad.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(ShardError) as error:
        prepare([good, bad], tmp_path / "out", workers=1)
    assert f"{bad} is not UTF-8" in str(error.value)
    assert f"byte offset {offset:,}" in str(error.value) and byte in str(error.value)
    assert ("of the unpacked text" in str(error.value)) == packed
    assert not (tmp_path / "out").exists()  # told before anything was written


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-9], lambda d: b"text", lambda d: d[:40] + b"???" + d[43:]]
)
def test_a_damaged_gzip_file_is_named(tmp_path, damage):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(damage(gzip.compress(story(1).encode())))
    with pytest.raises(ShardError, match=r"a\.txt\.gz is not a complete gzip file"):
        prepare([path], tmp_path / "out", workers=1)


def test_nothing_to_read_is_told(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.txt").write_text(f" \n{SEPARATOR}\n<|endoftext|>", encoding="utf-8")
    for source, reason in [
        ("missing.txt", "there is no file or folder"),
        ("empty", r"has no \.txt or \.txt\.gz file"),
        ("blank.txt", r"there is no text in blank\.txt"),
    ]:
        with pytest.raises(ShardError, match=f"Nothing to read: .*{reason}"):
            prepare([tmp_path / source], tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_given_twice_is_refused(tmp_path):
    path = write_stories(tmp_path / "texts" / "a.txt", 1)
    assert len(find_files([path.parent])) == 1  # control
    with pytest.raises(ShardError, match=r"a\.txt is given twice"):
        prepare([path.parent, path], tmp_path / "out", workers=1)


@pytest.mark.parametrize(
    "name, value", [("val_share", 1.0), ("val_share", -0.1), ("shard_tokens", 0), ("workers", 0)]
)
def test_an_impossible_argument_is_named_with_its_value(tmp_path, name, value):
    path = write_stories(tmp_path / "a.txt", 1)
    with pytest.raises(ValueError, match=f"{name} must be at least .* but is {value}"):
        prepare([path], tmp_path / "out", **{name: value})


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_of_other_settings_is_refused(tmp_path, finished):
    source = write_stories(tmp_path / "a.txt", 20)
    out, settings = tmp_path / "out", {"val_share": 0.1, "shard_tokens": 300, "workers": 1}
    prepare([source], out, **settings)
    if not finished:
        (out / "manifest.json").unlink()
        (out / "progress.json").write_text(json.dumps(progress_of(out, source, settings)))
    before = contents(out)
    for change, found in [
        ({"val_share": 0.2}, r"val_share is 0\.1 there, but 0\.2 now"),
        ({"shard_tokens": 301}, "shard_tokens is 300 there, but 301 now"),
    ]:
        with pytest.raises(ShardError, match=found):
            prepare([source], out, **{**settings, **change})
    source.write_text(source.read_text().replace("fox", "cat"))  # of the same size
    with pytest.raises(ShardError, match=r"sources_sha256 .*other text in them"):
        prepare([source], out, **settings)
    assert contents(out) == before
    source.write_text(source.read_text().replace("cat", "fox"))
    prepare([source], out, **settings)  # control


def progress_of(out, source, settings):
    """What progress.json holds at the start of the run that `settings` describe."""
    scratch = out.with_name("scratch")
    saved = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_text, "write_json", lambda path, content: saved.append(content))
        with pytest.raises(ShardError):  # no manifest was written
            prepare([source], scratch, **settings)
    return saved[0]


def test_shards_of_unknown_origin_are_not_overwritten(tmp_path):
    source = write_stories(tmp_path / "a.txt", 1)
    out = tmp_path / "out"
    out.mkdir()
    (out / "train-00000.bin").write_bytes(b"somebody's")
    with pytest.raises(ShardError, match=r"train-00000\.bin, but neither manifest\.json"):
        prepare([source], out, workers=1)
    assert (out / "train-00000.bin").read_bytes() == b"somebody's"
    (out / "train-00000.bin").unlink()
    prepare([source], out, workers=1)  # control


def test_a_damaged_progress_is_told(tmp_path):
    source = write_stories(tmp_path / "a.txt", 1)
    (tmp_path / "out").mkdir()
    for text in ['{"settings": ', '{"settings": {}}', "[]"]:
        (tmp_path / "out" / "progress.json").write_text(text)
        with pytest.raises(ShardError, match=r"progress\.json is damaged.*Delete"):
            prepare([source], tmp_path / "out", workers=1)


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    source = write_stories(tmp_path / "a.txt", 1)
    with prepare_text.claim(tmp_path / "out"), pytest.raises(ShardError, match="Another prepare"):
        prepare([source], tmp_path / "out", workers=1)
    prepare([source], tmp_path / "out", workers=1)  # control: free again


def test_the_command_line_ends_in_a_message_and_not_in_a_traceback(tmp_path, monkeypatch, capsys):
    source = write_stories(tmp_path / "a.txt", 30)
    out = tmp_path / "out"

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["prepare_text.py", *map(str, arguments)])
        runpy.run_path(prepare_text.__file__, run_name="__main__")

    with pytest.raises(SystemExit, match="Nothing to read: there is no file or folder"):
        run(tmp_path / "b.txt", "--out", out)
    with pytest.raises(SystemExit, match="2"):
        run(source, "--out", out, "--val-share", 2)
    assert "val_share must be at least 0 and below 1, but is 2.0" in capsys.readouterr().err
    run(source, "--out", out, "--val-share", 0.1, "--workers", 1, "--shard-tokens", 9000)
    train, val = (len(read_split(out, split)[0]) for split in ("train", "val"))
    printed = capsys.readouterr().out
    assert printed == f"train: {train:,} tokens in 1 shards\nval: {val:,} tokens in 1 shards\n"


# Interrupted runs


@pytest.fixture
def small_steps(monkeypatch):
    """Groups, and pauses to save, small enough for a text of a few kilobytes."""
    monkeypatch.setattr(prepare_text, "GROUP_CHARS", 1500)
    monkeypatch.setattr(prepare_text, "SAVE_EVERY", 700)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # no power will fail here


def count_steps(act):
    """Call `act(n)` before the n-th time that something is written, renamed or removed."""
    steps = iter(range(1_000_000))

    def before(function):
        def wrapped(*args, **kwargs):
            act(next(steps))
            return function(*args, **kwargs)

        return wrapped

    os.replace, os.fsync, os.unlink, os.truncate = map(
        before, (os.replace, os.fsync, os.unlink, os.truncate)
    )
    ShardWriter._append = before(ShardWriter._append)


def run_and_kill(step, *arguments):
    """Prepare in a forked process that gets a SIGKILL before the step; whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            count_steps(lambda n: n == step and os.kill(os.getpid(), signal.SIGKILL))
            prepare(*arguments, val_share=0.2, shard_tokens=700, workers=1)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_run_that_is_killed_at_any_step_ends_with_the_same_bytes(tmp_path, small_steps):
    """One in three is killed again at another step, while it goes on."""
    sources = [write_stories(tmp_path / f"{name}.txt", 7) for name in "ab"]
    settings = {"val_share": 0.2, "shard_tokens": 700, "workers": 1}
    prepare(sources, tmp_path / "whole", **settings)
    expected = contents(tmp_path / "whole")
    assert len(expected) >= 5  # several shards

    step, out = 0, tmp_path / "out"
    while run_and_kill(step, sources, out):
        assert step < 10 or (out / "progress.json").exists()
        if step % 3 == 0:
            run_and_kill(step // 3, sources, out)
        prepare(sources, out, **settings)
        assert contents(out) == expected, f"killed before step {step}"
        shutil.rmtree(out)
        step += 1
    assert step > 30
    assert contents(out) == expected


DRIVER = """
import sys, time
import prepare_text
from token_shards import ShardWriter
write = ShardWriter.write
ShardWriter.write = lambda self, ids: (write(self, ids), time.sleep(0.05))
prepare_text.GROUP_CHARS = prepare_text.SAVE_EVERY = 10_000
prepare_text.prepare([sys.argv[1]], sys.argv[2], val_share=0.1, shard_tokens=20_000)
"""


def start_slow_run(source, out):
    """Two workers and a main process that takes its time; returned when it has saved once."""
    process = psutil.Popen(
        [sys.executable, "-c", DRIVER, str(source), str(out)], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 200
    while not (out / "train-00000.bin").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the run did not begin"
        time.sleep(0.02)
    return process


def test_a_killed_command_leaves_no_process_and_goes_on_with_any_number_of_workers(tmp_path):
    source = write_stories(tmp_path / "a.txt", 500)
    settings = {"val_share": 0.1, "shard_tokens": 20_000}
    prepare([source], tmp_path / "whole", **settings, workers=1)
    out = tmp_path / "out"
    process = start_slow_run(source, out)
    children = process.children(recursive=True)
    assert len(children) >= 2
    process.kill()
    process.wait()
    process.stderr.close()  # a child that lives on would keep it open, so it is not read
    assert not (out / "manifest.json").exists()  # control: it was killed half-way
    _, alive = psutil.wait_procs(children, timeout=30)
    for child in alive:
        child.kill()
    assert alive == []
    with pytest.raises(ShardError, match=r"There is no .*manifest\.json.*not finished"):
        TokenBatches(out, 1, 8, seed=0)
    prepare([source], out, **settings, workers=2)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.slow
def test_a_killed_worker_ends_the_run(tmp_path):
    source = write_stories(tmp_path / "a.txt", 500)
    process = start_slow_run(source, tmp_path / "out")
    workers = [p for p in process.children() if "spawn_main" in " ".join(p.cmdline())]
    assert len(workers) == 2
    workers[0].kill()
    _, message = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "One of 2 worker processes ended without an answer" in message
    assert psutil.wait_procs(workers, timeout=30)[1] == []


def opener_on_a_full_disk(room):
    """An `open` whose unbuffered files share `room` bytes, and take what still fits."""
    left = [room]

    class FileOnAFullDisk(io.FileIO):
        def write(self, data):
            if left[0] == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            data = data[: left[0]]
            left[0] -= len(data)
            return super().write(data)

    def opened(path, mode, **kwargs):
        is_shard = kwargs.get("buffering") == 0
        return FileOnAFullDisk(path, mode) if is_shard else open(path, mode, **kwargs)

    return opened


@pytest.mark.parametrize("room", [0, 3333, 6000])
def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(
    tmp_path, small_steps, monkeypatch, room
):
    source = write_stories(tmp_path / "a.txt", 20)
    settings = {"shard_tokens": 1000, "workers": 1}
    prepare([source], tmp_path / "whole", **settings)
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(token_shards, "open", opener_on_a_full_disk(room), raising=False)
        with pytest.raises(ShardError, match=os.strerror(errno.ENOSPC)) as error:
            prepare([source], out, **settings)
    assert f"train-0000{room // 2000}.bin.part" in str(error.value)
    assert "run the same command again" in str(error.value)
    assert not (out / "manifest.json").exists()
    prepare([source], out, **settings)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("unshare"), reason="needs Linux's unshare")
def test_a_disk_that_is_really_full_is_told(tmp_path):
    """A mount of 48 kB, in a namespace of its own, for 80 kB of tokens."""
    source = write_stories(tmp_path / "a.txt", 170)
    out = tmp_path / "out"
    out.mkdir()
    mount = f'mount -t tmpfs -o size=48k tmpfs {out} && exec "$@"'
    before = ["unshare", "-rm", "sh", "-c", mount, "sh"]
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("this system does not allow mounts in a namespace of one's own")
    command = [sys.executable, prepare_text.__file__, source, "--out", out, "--workers", "1"]
    run = subprocess.run([*before, *map(str, command)], capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert f"Could not write {out}" in run.stderr and os.strerror(errno.ENOSPC) in run.stderr
    assert "Traceback" not in run.stderr


# Damage


@pytest.fixture
def shards(tmp_path):
    """A folder with 10,010 train tokens in shards of 1,500, and 700 of val, all different."""
    folder = tmp_path / "shards"
    folder.mkdir()
    return write_shards(folder, {"train": np.arange(10_010), "val": np.arange(20_000, 20_700)})


def write_shards(folder, tokens, shard_tokens=1500):
    listed = {}
    for split, ids in tokens.items():
        writer = ShardWriter(folder, split, shard_tokens)
        writer.write(ids)
        writer.finish_shard()
        listed[split] = writer.shards
    token_shards.write_json(folder / "manifest.json", {**token_shards.FORMAT, "shards": listed})
    return folder


def test_a_changed_byte_is_found_by_its_sha256(shards):
    check_shards(shards)  # control
    path = shards / "train-00002.bin"
    data = bytearray(path.read_bytes())
    data[1234] ^= 1
    path.write_bytes(data)
    TokenBatches(shards, 1, 8, seed=0)  # opening looks at the sizes only
    with pytest.raises(ShardError) as error:
        check_shards(shards)
    expected = token_shards.read_manifest(shards)["shards"]["train"][2]["sha256"]
    assert f"{path} is damaged: its sha256 should be {expected}, but is " in str(error.value)
    assert "run prepare_text.py again" in str(error.value)


def test_a_short_or_missing_shard_is_found_at_once(shards):
    path = shards / "train-00006.bin"
    path.write_bytes(path.read_bytes()[:-1])
    for open_it in (check_shards, lambda folder: TokenBatches(folder, 1, 8, seed=0)):
        with pytest.raises(ShardError, match=r"train-00006\.bin .* 2,020 bytes, but has 2,019"):
            open_it(shards)
    path.unlink()
    for open_it in (check_shards, lambda folder: TokenBatches(folder, 1, 8, seed=0)):
        with pytest.raises(ShardError, match=r"train-00006\.bin is missing; .* 2,020 bytes"):
            open_it(shards)


def replaced(manifest, old, new):
    assert old in manifest
    return manifest.replace(old, new, 1)


@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda m: m[: len(m) // 2], "should be JSON"),
        (lambda m: "[]", "should hold a JSON object"),
        (lambda m: replaced(m, '"gpt2"', '"gpt4"'), "tokenizer 'gpt2', but has 'gpt4'"),
        (lambda m: replaced(m, '"<u2"', '"<u4"'), "dtype '<u2', but has '<u4'"),
        (lambda m: replaced(m, '"version": 1', '"version": 2'), "version 1, but has 2"),
        (lambda m: replaced(m, '"shards"', '"shreds"'), "should list shards of train and val"),
        (lambda m: replaced(m, "train-00001", "../secret"), "list 'train-00001.bin'.*secret"),
        (lambda m: replaced(m, '"tokens": 1500', '"tokens": -15'), "list 'train-00000.bin'.*-15"),
        (lambda m: replaced(m, '"sha256"', '"md5"'), "list 'train-00000.bin', its tokens and sha"),
    ],
)
def test_a_damaged_manifest_is_named_with_what_was_expected(shards, damage, reason):
    path = shards / "manifest.json"
    check_shards(shards)  # control
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ShardError, match=reason) as error:
        TokenBatches(shards, 1, 8, seed=0)
    assert str(path) in str(error.value) and "prepare_text.py again" in str(error.value)


# Batches


def rows_of(batches, count):
    """Inputs and targets of the next batches, each as one list of rows."""
    pairs = [batches.next() for _ in range(count)]
    return tuple(torch.cat(side).tolist() for side in zip(*pairs, strict=True))


def test_an_epoch_gives_every_window_once_and_targets_are_one_token_later(shards):
    batches = TokenBatches(shards, batch_size=5, context_length=13, seed=1)
    assert batches.num_windows == 10_009 // 13 == 769
    assert batches.num_batches == 153
    x, y = batches.next()
    assert x.shape == y.shape == (5, 13) and x.dtype == y.dtype == torch.int64
    assert x.is_contiguous() and y.is_contiguous() and batches.position == 1
    batches.position = 0
    inputs, targets = rows_of(batches, 153)
    starts = [row[0] for row in inputs]
    assert len(set(starts)) == 765 and {start % 13 for start in starts} == {0}
    # Ids count up from 0 and 13 does not divide 1,500: windows lie in two shards as well.
    assert all(row == list(range(row[0], row[0] + 13)) for row in inputs)
    assert all(
        target == [id_ + 1 for id_ in row] for row, target in zip(inputs, targets, strict=True)
    )
    assert starts != sorted(starts)  # control: an order, not the order of the file


def test_a_window_may_be_longer_than_a_shard(shards):
    x, _ = TokenBatches(shards, batch_size=1, context_length=4000, seed=0).next()
    assert x[0].tolist() == list(range(x[0, 0], x[0, 0] + 4000))


def test_the_order_depends_on_seed_and_epoch_alone(shards):
    def orders(seed):
        batches = TokenBatches(shards, batch_size=5, context_length=60, seed=seed)
        return [[row[0] for row in rows_of(batches, batches.num_batches)[0]] for _ in range(2)]

    assert orders(1) == orders(1)
    first, second = orders(1)
    assert first != second and first != orders(2)[0]


def test_a_position_is_jumped_to_at_once(shards):
    there = TokenBatches(shards, batch_size=5, context_length=13, seed=1)
    rows_of(there, 170)  # into the second epoch
    again = TokenBatches(shards, batch_size=5, context_length=13, seed=1)
    again.position = there.position
    assert there.position == 170
    assert rows_of(again, 20) == rows_of(there, 20)
    again.position = 0
    assert rows_of(again, 20) != rows_of(there, 20)  # control


@pytest.mark.parametrize("split", ["train", "val"])
def test_ranks_share_out_the_batches_of_one_process(shards, split):
    alone = TokenBatches(shards, batch_size=6, context_length=13, seed=1, split=split)
    ranks = [
        TokenBatches(shards, 2, context_length=13, seed=1, rank=r, world_size=3, split=split)
        for r in range(3)
    ]
    assert {rank.num_batches for rank in ranks} == {alone.num_batches}
    for _ in range(alone.num_batches + 2):  # into the next epoch
        x, y = alone.next()
        parts = [rank.next() for rank in ranks]
        assert torch.equal(x, torch.cat([part[0] for part in parts]))
        assert torch.equal(y, torch.cat([part[1] for part in parts]))
        assert not torch.equal(parts[0][0], parts[1][0])  # control


def test_validation_is_read_in_its_order_in_every_epoch(shards):
    batches = TokenBatches(shards, batch_size=4, context_length=13, seed=1, split="val")
    inputs, _ = rows_of(batches, batches.num_batches)
    assert [row[0] for row in inputs] == list(range(20_000, 20_000 + 13 * 52, 13))
    assert rows_of(batches, batches.num_batches)[0] == inputs


def test_too_few_tokens_are_told_with_the_numbers(shards, tmp_path):
    TokenBatches(shards, 2, context_length=5004, seed=0)  # control: just enough
    message = (
        r"10,010 tokens of train, but one batch of 2 windows of context_length=5005 needs 10,011"
    )
    with pytest.raises(ShardError, match=message):
        TokenBatches(shards, 1, context_length=5005, seed=0, world_size=2)
    with pytest.raises(ShardError, match=r"700 tokens of val.*--val-share"):
        TokenBatches(shards, 1, context_length=700, seed=0, split="val")
    (tmp_path / "no-val").mkdir()
    write_shards(tmp_path / "no-val", {"train": np.arange(100), "val": np.arange(0)})
    with pytest.raises(ShardError, match="0 tokens of val"):
        TokenBatches(tmp_path / "no-val", 1, 8, seed=0, split="val")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"batch_size": 0}, "batch_size must be at least 1, but is 0"),
        ({"context_length": 0}, "context_length must be at least 1, but is 0"),
        ({"world_size": 0}, "world_size must be at least 1, but is 0"),
        ({"rank": 2, "world_size": 2}, "rank must lie from 0 to 1, but is 2"),
        ({"seed": -1}, "seed must be 0 or more, but is -1"),
        ({"split": "test"}, "one of train, val, but is 'test'"),
    ],
)
def test_an_impossible_argument_of_the_batches_is_named(shards, arguments, message):
    usual = {"batch_size": 2, "context_length": 8, "seed": 0}
    TokenBatches(shards, **usual)  # control
    with pytest.raises(ValueError, match=message):
        TokenBatches(shards, **{**usual, **arguments})


@pytest.mark.parametrize("position", [-1, 1.5, "7"])
def test_an_impossible_position_is_refused(shards, position):
    batches = TokenBatches(shards, 2, 8, seed=0)
    batches.position = np.int64(3)  # control
    with pytest.raises(ValueError, match="whole number from 0 on"):
        batches.position = position
    assert batches.position == 3


@pytest.mark.parametrize("count", [1, 2, 3, 63, 64, 65, 1000, 4097])
def test_the_random_order_holds_every_number_once(count):
    order = random_order(np.arange(count), count, seed=7, epoch=0).tolist()
    assert sorted(order) == list(range(count))
    some = np.array([0, count // 2, count - 1])
    assert random_order(some, count, seed=7, epoch=0).tolist() == [order[i] for i in some]


def test_the_random_order_is_the_same_for_ever():
    """A run that goes on after an update must find the windows that it has not seen yet."""
    first = random_order(np.arange(10), 10, seed=123, epoch=0).tolist()
    assert first == [7, 1, 2, 5, 4, 3, 8, 9, 6, 0]
    huge = random_order(np.arange(3), 10**12, seed=123, epoch=1).tolist()
    assert huge == [332625148208, 708897722454, 676106140220]


def test_the_random_order_looks_random():
    count, seeds = 20, 300
    orders = np.array([random_order(np.arange(count), count, s, epoch=0) for s in range(seeds)])
    counts = np.stack([(orders == number).sum(axis=0) for number in range(count)])
    chi_squared = ((counts - seeds / count) ** 2).sum() / (seeds / count)
    freedom = (count - 1) ** 2
    assert abs(chi_squared - freedom) < 5 * (2 * freedom) ** 0.5
    shifted = np.array([(np.arange(count) + s % 5) % count for s in range(seeds)])  # control
    counts = np.stack([(shifted == number).sum(axis=0) for number in range(count)])
    assert ((counts - seeds / count) ** 2).sum() / (seeds / count) > 2 * freedom

    steps = np.diff(random_order(np.arange(5000), 5000, seed=0, epoch=0).astype(int))
    assert abs(np.abs(steps).mean() / (5000 / 3) - 1) < 0.05


# The measurement


@pytest.fixture(scope="module")
def bench():
    path = ROOT / "bench" / "bench_prepare_text.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_measured_memory_counts_children(bench):
    child = "import time; block = bytearray(80_000_000); time.sleep(0.3)"
    alone, _ = bench.peak_memory([sys.executable, "-c", "import time; time.sleep(0.2)"])
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    both, _ = bench.peak_memory([sys.executable, "-c", parent])
    assert alone < 80_000_000 < both


def test_the_measured_text_has_the_size_asked_for_and_does_not_repeat(bench, tmp_path):
    bench.write_text(tmp_path / "a.txt", 300_000)
    assert (tmp_path / "a.txt").stat().st_size == 300_000
    documents = [text for text, ends in pieces_of(read_texts(tmp_path / "a.txt")) if ends]
    assert len(set(documents)) == len(documents) > 5


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_larger_corpus_needs_no_more_memory(bench, workers):
    small, large = (bench.measure(megabytes, workers)["peak"] for megabytes in (1, 10))
    assert large < bench.LIMIT * small
