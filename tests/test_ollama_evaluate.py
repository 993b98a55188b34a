"""The client of ollama's chat, against a server on this machine that speaks its protocol.

The name of the model that is asked for switches the server's faults on.
"""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest

import ollama_evaluate
from ollama_evaluate import (
    JudgeError,
    check_if_running,
    generate_model_scores,
    main,
    query_model,
    read_score,
)

ENTRIES = [
    {"instruction": "Add.", "input": "1 and 1", "output": "2", "model_response": "2"},
    {"instruction": "Add.", "input": "2 and 2", "output": "4", "model_response": "22"},
    {"instruction": "Add.", "input": "3 and 3", "output": "6", "model_response": "6"},
]


class Ollama(BaseHTTPRequestHandler):
    """Answers a chat with the next of the server's answers, in pieces of two letters."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, request))
        fault = request["model"]
        if fault == "once" and len(self.server.requests) > 1:
            fault = "good"  # a fault that is over at the second try
        if fault == "unknown":
            self.send_json(404, {"error": "model 'unknown' not found"})
        elif fault in ("broken", "once"):
            self.send_json(500, {"error": "out of memory"})
        else:
            with contextlib.suppress(ConnectionError):
                self.send_answer(fault)

    def send_json(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def send_answer(self, fault):
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        answer = self.server.answers.pop(0) if self.server.answers else "good"
        pieces = [answer[i : i + 2] for i in range(0, len(answer), 2)]
        for number, piece in enumerate(pieces):
            if fault == "silent" and number == 1:
                self.server.is_over.wait(5)
            if fault == "slow":
                time.sleep(0.2)
            if fault == "error" and number == 1:
                self.send_line({"error": "the runner stopped"})
            if fault == "other":
                self.send_line({"choices": []})
            self.send_line({"message": {"role": "assistant", "content": piece}, "done": False})
            if fault == "cut" and number == 0:
                self.close_connection = True
                return  # without the last chunk
        if fault != "short":
            self.send_line({"message": {"role": "assistant", "content": ""}, "done": True})
        self.wfile.write(b"0\r\n\r\n")

    def send_line(self, part):
        line = json.dumps(part).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.flush()

    def log_message(self, *args):
        pass


@pytest.fixture
def judge(monkeypatch):
    """The server; `str(judge)` is its address, `answers` what it says, `requests` what came."""
    monkeypatch.setattr(ollama_evaluate, "SECONDS_BETWEEN_TRIES", 0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Ollama) as server:
        server.url = f"http://127.0.0.1:{server.server_port}/api/chat"
        server.answers, server.requests, server.is_over = [], [], threading.Event()
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield server
        server.is_over.set()
        server.shutdown()


def test_the_pieces_of_an_answer_are_joined(judge):
    judge.answers = ["Llamas eat grass, ümläuts too."]
    assert query_model("What do llamas eat?", "good", judge.url) == "Llamas eat grass, ümläuts too."
    (path, request), *others = judge.requests
    assert others == []
    assert path == "/api/chat"
    assert request["messages"] == [{"role": "user", "content": "What do llamas eat?"}]
    assert request["options"] == {"seed": 123, "temperature": 0, "num_ctx": 2048}
    assert request.get("stream", True)


@pytest.mark.parametrize(
    ("fault", "message", "num_requests"),
    [
        ("unknown", "refused: 404 .*model 'unknown' not found.*`ollama pull NAME`", 1),
        ("error", "The judge stopped: the runner stopped", 1),
        ("other", "does not speak ollama's protocol", 1),
        ("broken", "failed: 500 .* Tries: 3", 3),
        ("cut", "broke off.* Tries: 3", 3),
        ("short", "ended before it was whole. Tries: 3", 3),
        ("silent", "no whole answer within 0.3 s. Tries: 3", 3),
        ("slow", "no whole answer within 0.3 s. Tries: 3", 3),
    ],
)
def test_a_fault_is_told_and_tried_again_where_that_may_help(judge, fault, message, num_requests):
    judge.answers = ["an answer in pieces"] * 3
    with pytest.raises(JudgeError, match=message):
        query_model("?", fault, judge.url, seconds=0.3)
    assert len(judge.requests) == num_requests


def test_a_fault_that_is_over_at_the_second_try_does_no_harm(judge):
    judge.answers = ["fine"]
    assert query_model("?", "once", judge.url) == "fine"
    assert len(judge.requests) == 2


def test_a_server_that_is_not_there_is_told():
    with pytest.raises(JudgeError, match=r"cannot be reached\. Is `ollama serve` running"):
        query_model("?", url="http://127.0.0.1:9/api/chat", tries=1)


def test_whether_a_process_runs():
    assert check_if_running(psutil.Process().name())
    assert not check_if_running("no-process-has-this-name")


@pytest.mark.parametrize("answer", ["85", " 0\n", "100"])
def test_a_number_from_0_to_100_is_a_score(answer):
    assert read_score(answer) == int(answer)


@pytest.mark.parametrize(
    "answer", ["", "101", "-5", "8.5", "Score: 85", "eighty", "²", "85 of 100"]
)
def test_any_other_answer_is_none(answer):
    with pytest.raises(ValueError, match="no whole number from 0 to 100"):
        read_score(answer)


def test_an_answer_that_is_no_number_is_told_and_left_out(judge, capsys):
    judge.answers = ["100", "I would say 20.", "90"]
    assert generate_model_scores(ENTRIES, "model_response", "good", judge.url) == [100, 90]
    assert "Entry 1 is left out" in capsys.readouterr().out
    asked = [request["messages"][0]["content"] for _, request in judge.requests]
    for prompt, entry in zip(asked, ENTRIES, strict=True):
        for key in ("instruction", "input", "output", "model_response"):
            assert entry[key] in prompt


def test_what_has_come_is_kept_and_not_asked_for_again(judge, tmp_path):
    kept = tmp_path / "kept.jsonl"
    judge.answers = ["100", "10"]
    settings = {"json_key": "model_response", "url": judge.url, "kept": kept}
    assert generate_model_scores(ENTRIES[:2], model="good", **settings) == [100, 10]
    with open(kept, "a") as file:
        file.write('\n{"model": "good", "pro')  # as if stopped amid a line
    judge.answers = ["90"]
    assert generate_model_scores(ENTRIES, model="good", **settings) == [100, 10, 90]
    assert len(judge.requests) == 3
    assert generate_model_scores(ENTRIES, model="good", **settings) == [100, 10, 90]
    assert len(judge.requests) == 3
    judge.answers = ["1"] * 3  # another judge's answers are its own
    assert generate_model_scores(ENTRIES, model="another", **settings) == [1, 1, 1]


def test_entries_without_an_answer_are_refused_before_any_is_asked_about(judge):
    entries = [ENTRIES[0], {**ENTRIES[1], "model_response": None}]
    with pytest.raises(ValueError, match="Entry 1 has no text under 'model_response'"):
        generate_model_scores(entries, "model_response", "good", judge.url)
    assert judge.requests == []


def test_the_command_line(judge, tmp_path, capsys):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(ENTRIES))
    judge.answers = ["100", "50", "0"]
    assert main(["--file", str(path), "--url", judge.url, "--model", "good"]) == 0
    assert "Number of scores: 3 of 3\nAverage score: 50.00" in capsys.readouterr().out
    assert main(["--file", str(path), "--url", judge.url, "--model", "unknown"]) == 2
    assert "model 'unknown' not found" in capsys.readouterr().err
    path.write_text(json.dumps(ENTRIES)[:50])
    assert main(["--file", str(path), "--url", judge.url]) == 2
    assert "Was it cut short?" in capsys.readouterr().err
