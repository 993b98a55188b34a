"""A server on this machine that has one file, and faults that a path switches on."""

import contextlib
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Handler(BaseHTTPRequestHandler):
    """The path's first part names the faults, joined by +, as in /cut+no-range/file.bin."""

    def do_GET(self):
        name = self.path.split("/")[1]
        faults = set(name.split("+"))
        start = int((re.findall(r"\d+", self.headers.get("Range", "")) or [0])[0])
        self.server.requests.append((name, start))
        if "missing" in faults:
            self.send_error(404)
        elif "hub" in faults:  # as Hugging Face's: hash and size, and the file somewhere else
            self.send_redirect()
        elif "no-range" not in faults and start >= len(self.server.content):
            self.send_error(416)
        else:
            self.send_file(0 if "no-range" in faults else start, faults)

    def send_file(self, start, faults):
        content = self.server.content[:: -1 if "wrong" in faults else 1] + b"!" * (
            "longer" in faults
        )
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client may be killed
            self.send_body(content, start, faults)

    def send_redirect(self):
        self.send_response(302)
        self.send_header("Location", self.path.replace("hub", "good", 1))
        self.send_header("X-Linked-Etag", f'"{self.server.vouched}"')
        self.send_header("X-Linked-Size", str(len(self.server.content)))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_body(self, content, start, faults):
        stop, step = len(content), len(content)
        if "cut" in faults and self.server.cuts:
            stop = max(start, self.server.cuts.pop(0))
        if "silent" in faults:
            stop = start
        if "slow" in faults:
            step = len(content) // 20
        while start < stop:
            self.wfile.write(content[start : min(start + step, stop)])
            start += step
            time.sleep(0.05 * ("slow" in faults))
        if "silent" in faults:
            self.server.is_over.wait(10)

    def log_message(self, *args):
        pass


class FaultyServer(ThreadingHTTPServer):
    """Attributes that a test may set or read, beside its URL, `str(server)`.

    content: the bytes of its file.
    vouched: the sha256 that the fault "hub" names.
    cuts: where the fault "cut" breaks the connections, the first, the second and so on.
    requests: (faults, first byte asked for) of each.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.vouched, self.cuts, self.requests = b"", "", [], []
        self.is_over = threading.Event()

    def __str__(self):
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server():
    with FaultyServer() as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield server
        server.is_over.set()
        server.shutdown()
