"""A larger model as the judge of answers, asked through ollama's HTTP API (book, section 7.8).

Ollama runs models on this machine: `ollama serve` in one terminal, `ollama pull llama3` once.

    python ollama_evaluate.py --file build/answers.json --kept build/verdicts.jsonl

The file holds entries as `gpt_instruction_finetuning` describes them, with a model's answer under
one more key. Verdicts that have come are kept: a run that was stopped goes on where it was.
"""

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path

import psutil
import requests

import companion
from gpt_instruction_finetuning import check_entries, format_input, read_instructions

URL = "http://localhost:11434/api/chat"
SECONDS_TO_CONNECT = 5
SECONDS_BETWEEN_TRIES = 0.5  # and twice as many before each further one
TRIES = 3


class JudgeError(Exception):
    """The judge could not be asked, or gave no whole answer."""


class _PassingError(Exception):
    """A fault that may be gone at the next try."""


def check_if_running(process_name):
    """Whether a process with this in its name runs on this machine.

    Source: book, section 7.8.
    """
    names = (process.info["name"] or "" for process in psutil.process_iter(["name"]))
    return any(process_name in name for name in names)


def query_model(prompt, model="llama3", url=URL, seconds=120, tries=TRIES):
    """A model's answer to a prompt, a text. With seed and temperature 0 it is always the same.

    Args:
        prompt: what to ask.
        model: a name that ollama knows.
        url: the address of ollama's chat.
        seconds: how long to wait for the whole answer. The first one waits for the model to load.
        tries: how often to ask before giving up. What is wrong with the request itself, an unknown
            model say, is not tried again.

    Raises:
        JudgeError: no server at the address, no whole answer in time, or an error that the server
            told; says what to do.

    Source: book, section 7.8.
    """
    for number in range(tries - 1):
        with contextlib.suppress(_PassingError):
            return "".join(_stream(prompt, model, url, seconds))
        time.sleep(SECONDS_BETWEEN_TRIES * 2**number)
    try:
        return "".join(_stream(prompt, model, url, seconds))
    except _PassingError as fault:
        raise JudgeError(f"{fault} Tries: {tries}, at {url}.") from fault


def _stream(prompt, model, url, seconds):
    """Yield the pieces of an answer as they come."""
    request = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "options": {"seed": 123, "temperature": 0, "num_ctx": 2048},
    }
    deadline = time.monotonic() + seconds
    try:
        timeouts = (SECONDS_TO_CONNECT, seconds)
        with requests.post(url, json=request, stream=True, timeout=timeouts) as response:
            _check_status(response)
            for line in filter(None, response.iter_lines()):
                if time.monotonic() > deadline:
                    raise requests.Timeout
                part = _parsed(line)
                if "error" in part:
                    raise JudgeError(f"The judge stopped: {part['error']}")
                yield part["message"]["content"]
                if part["done"]:
                    return
    except requests.Timeout as error:
        raise _PassingError(f"The judge gave no whole answer within {seconds} s.") from error
    except (requests.exceptions.ChunkedEncodingError, requests.exceptions.InvalidURL) as error:
        raise _PassingError(f"The connection to the judge broke off: {error}.") from error
    except requests.ConnectionError as error:
        # A connection that is silent in the middle of an answer is reported as this, too.
        if "Read timed out" in str(error):
            raise _PassingError(f"The judge gave no whole answer within {seconds} s.") from error
        raise _PassingError("The judge cannot be reached. Is `ollama serve` running?") from error
    raise _PassingError("The judge's answer ended before it was whole.")


def _check_status(response):
    if response.status_code >= 500:
        raise _PassingError(f"The judge's server failed: {response.status_code} {response.reason}.")
    if not response.ok:
        raise JudgeError(
            f"The judge's server refused: {response.status_code} {response.text.strip()[:200]}. "
            "`ollama list` names the models that are there, `ollama pull NAME` gets one."
        )


def _parsed(line):
    """A line of the answer: {"message": {"content": text}, "done": bool}, or {"error": text}."""
    try:
        part = json.loads(line)
        if "error" in part or isinstance(part["message"]["content"] + str(part["done"]), str):
            return part
    except (ValueError, KeyError, TypeError):
        pass
    raise JudgeError(f"The server does not speak ollama's protocol; it sent {line[:80]!r}.")


def judge_prompt(entry, json_key):
    """What the judge is asked about the answer that an entry has under `json_key`."""
    return (
        f"A model was given this task:\n{format_input(entry)}\n\n"
        f"A correct answer is:\n{entry['output']}\n\n"
        f"The model answered:\n{entry[json_key]}\n\n"
        "Rate the model's answer from 0 (wrong or missing) to 100 (as good as the correct one). "
        "Reply with the whole number alone."
    )


def read_score(answer):
    """The number, 0 to 100, that a judge's answer is.

    Raises:
        ValueError: it is something else.
    """
    text = answer.strip()
    if not (text.isascii() and text.isdigit() and int(text) <= 100):
        raise ValueError(f"The judge's answer is no whole number from 0 to 100: {text[:80]!r}.")
    return int(text)


def generate_model_scores(json_data, json_key, model="llama3", url=URL, kept=None, seconds=120):
    """The judge's scores, a list of int; an answer that is no number is told, and left out.

    Args:
        json_data: list of entries, each with a model's answer under `json_key`.
        json_key: that key.
        model, url, seconds: as for `query_model`.
        kept: a file to which each answer is added at once. Those that it holds already are not
            asked for again, so that a run that broke off can be taken up.

    Raises:
        ValueError: an entry lacks the key, or as `check_entries`.
        JudgeError: as `query_model`.

    Source: book, section 7.8.
    """
    check_entries(json_data)
    for number, entry in enumerate(json_data):
        if not isinstance(entry.get(json_key), str):
            raise ValueError(
                f"Entry {number} has no text under {json_key!r} for the judge to read."
            )
    known = _read_kept(kept)
    scores = []
    for number, entry in enumerate(companion.progress(json_data, "judge")):
        prompt = judge_prompt(entry, json_key)
        if (model, prompt) not in known:
            known[model, prompt] = query_model(prompt, model, url, seconds)
            _keep(kept, model, prompt, known[model, prompt])
        try:
            scores.append(read_score(known[model, prompt]))
        except ValueError as error:
            print(f"Entry {number} is left out. {error}")
    return scores


def _read_kept(path):
    """{(model, prompt): answer} of a file that `_keep` wrote; a last line cut short is left out."""
    known = {}
    if path is not None and Path(path).exists():
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            known[row["model"], row["prompt"]] = row["answer"]
    return known


def _keep(path, model, prompt, answer):
    if path is not None:
        row = {"model": model, "prompt": prompt, "answer": answer}
        with open(path, "a", encoding="utf-8") as file:
            # A line break first: the line before may have been cut short.
            file.write(f"\n{json.dumps(row)}")


def main(arguments=None):
    """The command line; the exit status, 2 where something cannot be done."""
    parser = argparse.ArgumentParser(description="Let a model in ollama score answers.")
    parser.add_argument("--file", help="JSON with answers; the book's, downloaded, if not given")
    parser.add_argument("--key", default="model_response", help="where an entry has its answer")
    parser.add_argument("--model", default="llama3")
    parser.add_argument("--url", default=URL)
    parser.add_argument("--kept", help="a file for the answers that have come")
    options = parser.parse_args(arguments)
    try:
        path = options.file or companion.asset("instruction-data-with-response.json")
        data = read_instructions(path)
        scores = generate_model_scores(data, options.key, options.model, options.url, options.kept)
    except (OSError, ValueError, JudgeError, companion.AssetError) as error:
        print(f"ollama_evaluate.py: {error}", file=sys.stderr)
        return 2
    print(f"Number of scores: {len(scores)} of {len(data)}")
    if scores:
        print(f"Average score: {sum(scores) / len(scores):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
