"""A DICOMweb server in this process: as much of one as MONAI Label reads studies from."""

from __future__ import annotations

import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pydicom

BOUNDARY = "a-boundary"


class DicomWeb:
    """Answers while entered: searches for series (QIDO-RS), and whole series (WADO-RS).

    Args:
        folder: holds one folder per series.
    """

    def __init__(self, folder: Path) -> None:
        self.series: dict[str, list[Path]] = {}
        heads = {}
        for one in sorted(folder.iterdir()):
            files = sorted(one.iterdir())
            head = pydicom.dcmread(files[0], stop_before_pixels=True)
            self.series[str(head.SeriesInstanceUID)] = files
            heads[str(head.SeriesInstanceUID)] = head
        series = self.series

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path, _, query = self.path.partition("?")
                if path.endswith("/series"):
                    asked = dict(urllib.parse.parse_qsl(query))
                    found = [h for h in heads.values() if all(str(h.get(key)) == asked[key] for key in asked)]
                    self.reply(json.dumps([h.to_json_dict() for h in found]).encode(), "application/dicom+json")
                    return
                part = f"\r\n--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
                body = b"".join(part + file.read_bytes() for file in series[path.rpartition("/")[2]])
                kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
                self.reply(body + f"\r\n--{BOUNDARY}--".encode(), kind)

            def reply(self, body: bytes, kind: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server.server_port}/dicom-web"

    def __enter__(self) -> DicomWeb:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
