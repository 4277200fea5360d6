"""A real web server on a free port of 127.0.0.1 with configurable faults, which records its requests."""

from __future__ import annotations

import re
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


@dataclass
class Fault:
    """What goes wrong with one request."""

    status: int | None = None  # answer this, with `body`
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)  # laid over the right ones; "" removes one
    cut_after: int | None = None  # bytes of the body, then the connection is cut
    ignore_range: bool = False
    ignore_if_range: bool = False
    shift: int = 0  # a 206 that starts elsewhere than it was asked to
    replace: bytes | None = None  # send this in place of the file


@dataclass
class Resource:
    """A file, and the faults of the first requests for it in their order; None: that one goes well."""

    data: bytes
    etag: str | None = '"v1"'
    last_modified: str | None = None
    kind: str = "application/octet-stream"
    faults: list[Fault | None] = field(default_factory=list)
    always: Fault | None = None
    bytes_per_second: float | None = None
    chunked: bool = False


@dataclass(frozen=True)
class Request:
    method: str
    path: str  # with the query
    headers: dict[str, str]  # names in lower case


# A key for 127.0.0.1 that signs itself, of no worth anywhere else.
PEM = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgVoJkTx0CsIxyex59
Hkdix4oQBJY0d4A7DRENp1JGwqGhRANCAARKjvHQFWJbBnS1umCHcSIxPnCFiW+T
gEpPxTUPzCTunh2YMkEFWgvPgZfuisLToRr6FdYBfQSnz3hFJbNHWJAl
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBkDCCATagAwIBAgIUEKNvfiL6L/JrVl0HB2/6xtfTNWQwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJMTI3LjAuMC4xMCAXDTI2MTEyMjEwMzYwMFoYDzIxMjYxMDI5
MTAzNjAwWjAUMRIwEAYDVQQDDAkxMjcuMC4wLjEwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAARKjvHQFWJbBnS1umCHcSIxPnCFiW+TgEpPxTUPzCTunh2YMkEFWgvP
gZfuisLToRr6FdYBfQSnz3hFJbNHWJAlo2QwYjAdBgNVHQ4EFgQUMi9rrJBgppni
uP3I2Hib0eVY+EIwHwYDVR0jBBgwFoAUMi9rrJBgppniuP3I2Hib0eVY+EIwDwYD
VR0TAQH/BAUwAwEB/zAPBgNVHREECDAGhwR/AAABMAoGCCqGSM49BAMCA0gAMEUC
IQDz1pXt31J6ahtvXBKVK2XeIFzKd/h/Cil6Egc9QroSKAIgUblyaLvMt2+/H0yr
IIfxbq1p4oAqCxtDaol2KgwPhAA=
-----END CERTIFICATE-----
"""


def tls_context(*, server: bool = False) -> ssl.SSLContext:
    """Of a server with that key, or of a client that trusts it."""
    if not server:
        return ssl.create_default_context(cadata=PEM[PEM.index("-----BEGIN CERTIFICATE") :])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(PEM)
        file.flush()
        context.load_cert_chain(file.name)
    return context


Answer = Callable[[Request], Fault | Resource | None]


class FaultyServer:
    """`with FaultyServer() as server: server.files["/a.zip"] = Resource(...)`; `answers` are asked before the files."""

    def __init__(self, host: str = "127.0.0.1", *, encrypted: bool = False) -> None:
        self.files: dict[str, Resource] = {}
        self.answers: list[Answer] = []
        self.requests: list[Request] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._serve(self)

            do_POST = do_GET  # noqa: N815  the name http.server looks for

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                pass  # a client that hangs up is part of the game

        self._server = Server((host, 0), Handler)
        self._server.daemon_threads = True
        self.host = f"{host}:{self._server.server_address[1]}"
        self.url = f"{'https' if encrypted else 'http'}://{self.host}"
        if encrypted:
            self._server.socket = tls_context(server=True).wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def ranges(self, path: str) -> list[str | None]:
        """What each request for a file asked for."""
        return [request.headers.get("range") for request in self.requests if request.path.split("?")[0] == path]

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        request = Request(handler.command, handler.path, {k.lower(): v for k, v in handler.headers.items()})
        if length := int(request.headers.get("content-length", 0)):
            handler.rfile.read(length)
        with self._lock:
            self.requests.append(request)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            self._answer(handler, request)
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True
        finally:
            with self._lock:
                self._at_once -= 1

    def _answer(self, handler: BaseHTTPRequestHandler, request: Request) -> None:
        found = next((answer for ask in self.answers if (answer := ask(request)) is not None), None)
        if isinstance(found, Fault):
            _send(handler, found.status or 200, {"Content-Length": str(len(found.body)), **found.headers}, found.body)
            return
        resource = found or self.files.get(request.path.split("?")[0])
        if resource is None:
            _send(handler, 404, {"Content-Length": "0"}, b"")
            return
        with self._lock:
            fault = resource.always or (resource.faults.pop(0) if resource.faults else None) or Fault()
        if fault.status is not None:
            _send(handler, fault.status, {"Content-Length": str(len(fault.body)), **fault.headers}, fault.body)
            return
        self._send_file(handler, request, resource, fault)

    def _send_file(self, handler: BaseHTTPRequestHandler, request: Request, resource: Resource, fault: Fault) -> None:
        data = resource.data if fault.replace is None else fault.replace
        headers = {"Content-Type": resource.kind, "Accept-Ranges": "bytes"}
        if resource.etag:
            headers["ETag"] = resource.etag
        if resource.last_modified:
            headers["Last-Modified"] = resource.last_modified
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
        condition = request.headers.get("if-range")
        fits = condition is None or condition in (resource.etag, resource.last_modified) or fault.ignore_if_range
        status, first = 200, 0
        if asked and fits and not fault.ignore_range:
            status, first = 206, int(asked[1]) + fault.shift
            if first >= len(data):
                _send(handler, 416, {"Content-Length": "0", "Content-Range": f"bytes */{len(data)}"}, b"")
                return
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        body = data[first:]
        headers |= {"Transfer-Encoding": "chunked"} if resource.chunked else {"Content-Length": str(len(body))}
        headers = {name: value for name, value in (headers | fault.headers).items() if value}
        _start(handler, status, headers)
        _pour(handler, body, resource, fault.cut_after)


def _pour(handler: BaseHTTPRequestHandler, body: bytes, resource: Resource, cut_after: int | None) -> None:
    whole, body = body, body if cut_after is None else body[:cut_after]
    step = 65536 if resource.bytes_per_second is None else max(1, int(resource.bytes_per_second / 50))
    for start in range(0, len(body), step):
        piece = body[start : start + step]
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if resource.chunked else piece)
        handler.wfile.flush()
        if resource.bytes_per_second is not None:
            time.sleep(step / resource.bytes_per_second)
    if cut_after is not None and cut_after < len(whole):
        handler.close_connection = True
    elif resource.chunked:
        handler.wfile.write(b"0\r\n\r\n")


def _start(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    if "Content-Length" not in headers and "Transfer-Encoding" not in headers:
        handler.close_connection = True
    handler.end_headers()


def _send(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
    _start(handler, status, headers)
    handler.wfile.write(body)
