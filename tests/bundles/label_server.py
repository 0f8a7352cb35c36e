"""A real MONAI Label server in a process of its own, and the requests that viewers send to it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping
from email.parser import BytesParser
from pathlib import Path
from typing import Any

from tests.bundles.discovery import REPOSITORY

VENV = Path(os.environ.get("CT_BUNDLES_MONAILABEL_VENV", REPOSITORY / ".venv-monailabel"))
PYTHON = VENV / "bin" / "python"
_KEPT = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
ENVIRONMENT = {**_KEPT, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


class RefusedError(Exception):
    """An answer of the server that is no success."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}: {text}")
        self.status = status
        self.text = text


class Server:
    """Starts when entered, and is there until left; ``log`` holds what it printed.

    Args:
        app: folder of the MONAI Label app.
        studies: folder of images, or address of a DICOMweb server.
        folder: working directory, which is not the repository.
        python_path: where Python finds ``common``.
        environment: further variables of its environment.
        conf: the ``--conf`` settings.
    """

    def __init__(
        self,
        app: Path,
        studies: Path | str,
        folder: Path,
        *,
        python_path: Path = REPOSITORY,
        environment: Mapping[str, str] | None = None,
        **conf: str,
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        settings = [word for name, value in conf.items() for word in ("--conf", name, value)]
        where = ["--app", str(app), "--studies", str(studies), "--host", "127.0.0.1", "--port", str(self.port)]
        self.command = [str(PYTHON), "-m", "monailabel.main", "start_server", *where, *settings]
        self.folder = folder
        self.environment = {**ENVIRONMENT, "PYTHONPATH": str(python_path), **(environment or {})}
        self.log = folder / "server.log"

    def __enter__(self) -> Server:
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + 600  # most of it is imports, slow on a busy machine
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                self.get("/info/")
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.5)
            else:
                return self
        self.__exit__()
        raise AssertionError(f"the server did not start\n{self.log.read_text()[-6000:]}")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)

    def request(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> tuple[bytes, str]:
        """Content and its type."""
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, data=body or None, method=method, headers={"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return answer.read(), answer.headers["Content-Type"]
        except urllib.error.HTTPError as error:
            raise RefusedError(error.code, error.read().decode()) from error

    def get(self, path: str) -> Any:
        """The JSON that a path answers with."""
        return json.loads(self.request("GET", path)[0])

    def upload(self, method: str, path: str, files: Mapping[str, Path], **fields: Any) -> tuple[bytes, str]:
        """A form with files in it; ``fields`` are sent as JSON."""
        boundary = uuid.uuid4().hex
        parts = []
        for name, value in fields.items():
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
            parts.append(f"{head}{json.dumps(value)}\r\n".encode())
        for name, file in files.items():
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{file.name}"\r\n\r\n'
            parts += [head.encode(), file.read_bytes(), b"\r\n"]
        body = b"".join(parts) + f"--{boundary}--\r\n".encode()
        return self.request(method, path, body, f"multipart/form-data; boundary={boundary}")

    def submit(self, study: str, label: Path, **params: Any) -> None:
        """Save a label as viewers do."""
        self.upload("PUT", f"/datastore/label?image={urllib.parse.quote(study)}", {"label": label}, params=params)

    def segment(self, model: str, out: Path, study: str = "", file: Path | None = None) -> dict[str, Any]:
        """Segment a study of the server's, or an uploaded file; the mask goes to ``out``.

        Returns:
            The parameters beside the mask: names of the labels, latencies.
        """
        path = f"/infer/{model}?output=all&image={urllib.parse.quote(study)}"
        files = {} if file is None else {"file": file}
        content, kind = self.upload("POST", path, files, params={"device": "cpu"})
        message = BytesParser().parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + content)
        parts = {part.get_param("name", header="content-disposition"): part for part in message.get_payload()}
        out.write_bytes(parts["image"].get_payload(decode=True))
        return json.loads(parts["params"].get_payload(decode=True))

    def train(self, trainer: str, **params: Any) -> dict[str, Any]:
        """Run a trainer to its end.

        Returns:
            MONAI Label's record of the task; its ``status`` is ``DONE`` or ``ERROR``.
        """
        body = json.dumps({"device": "cpu", "multi_gpu": False, **params}).encode()
        task = json.loads(self.request("POST", f"/train/{trainer}", body)[0])
        deadline = time.monotonic() + 1800
        while time.monotonic() < deadline:
            found = next(t for t in self.get("/train/?all=true") if t["id"] == task["id"])
            if found["status"] not in ("SUBMITTED", "RUNNING"):
                return found
            time.sleep(0.5)
        raise AssertionError(f"{trainer} has not ended in half an hour")
