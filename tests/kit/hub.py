"""A model hub on this machine: files, redirected as on the real hub, over a line that can break."""

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class Hub:
    """What the hub serves, and what it was asked.

    Attributes:
        content: of the file, whatever its name.
        files: contents by name; where there are any, other files are missing.
        cuts: for each of the next requests of the file, how many bytes are sent before the line breaks.
        asked: paths, in order.
        ranges: of the requests of the file: its header `Range`, empty when the whole file was asked for.
        missing: the file is not there.
        url: where the hub is.
    """

    content: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    missing: bool = False
    url: str = ""

    def start(self) -> ThreadingHTTPServer:
        """Serve in a thread; the server must be shut down and closed."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *words: object) -> None:
                """Say nothing."""

            def do_GET(self) -> None:
                hub.asked.append(self.path)
                name = self.path.rsplit("/", 1)[1]
                if hub.missing or (hub.files and name not in hub.files):
                    self.send_error(404)
                    return
                if not self.path.startswith("/stored/"):
                    self.send_response(302)
                    self.send_header("Location", f"{hub.url}/stored/{name if hub.files else 'file'}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                wanted = self.headers.get("Range", "")
                hub.ranges.append(wanted)
                start = int(wanted.removeprefix("bytes=").removesuffix("-") or 0)
                content = hub.files.get(name, hub.content)
                rest = content[start:]
                self.send_response(206 if wanted else 200)
                self.send_header("Content-Length", str(len(rest)))
                if wanted:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                self.end_headers()
                self.wfile.write(rest[: hub.cuts.pop(0)] if hub.cuts else rest)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return server


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a URL the hub, and its client impatient."""
    from huggingface_hub import constants

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
