"""Put a bundle into one zip file that needs nothing but pip packages: ``python scripts/package.py isd_mae --out dist``.

The zip holds one folder, named after the bundle, and everything in it: ``configs``, ``docs``, ``LICENSE``, the weights
in ``models`` if there are any, and the package ``common`` beside ``configs``. That folder is its own Python path: run
commands from inside it, or put it on ``PYTHONPATH`` (MONAI Label and ``monai.bundle run`` add it, the latter too late).
In its configs and commands, paths are relative to it instead of to this repository.

The same files give the same bytes: entries are sorted, not compressed, and bear one fixed date.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import zipfile
from configparser import ConfigParser as SetupFile
from pathlib import Path

from common.errors import InputError, install_excepthook
from common.files import written_beside

REPOSITORY = Path(__file__).resolve().parent.parent
WEIGHTS = ("models/model.pt", "models/pretrained/ssl.pt")
NEEDED = ("LICENSE", "docs/README.md", "docs/data_license.txt", "configs/metadata.json")
TEXT = (".json", ".md")
DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file can hold

START = """# {title}

The bundle `{name}` {version} by itself. In this folder:

```bash
pip install -r requirements.txt
python -m monai.bundle run --config_file configs/train.json --dataset_dir FOLDER_OF_CT
python -m monai.bundle run --config_file configs/inference.json --dataset_dir FILE_OR_FOLDER --output_dir masks
```

From another folder, put this one on `PYTHONPATH` and give `--bundle_root`. Everything else: `docs/README.md`.
`sha256sum --check SHA256SUMS` tells whether the files are as they were packed. A configuration is code: MONAI evaluates
expressions in it, so use this folder only if you trust where it came from.
"""


def package(name: str, out: Path, *, root: Path = REPOSITORY, model_url: str | None = None) -> Path:
    """Write ``<name>_v<version>.zip`` into ``out``.

    Args:
        name: a folder of ``bundles``.
        out: the folder to write to.
        root: the repository.
        model_url: where ``models/model.pt`` can be downloaded; it is then named in ``large_files.yml``, with its hash,
            instead of being in the zip.

    Raises:
        InputError: no such bundle, something missing in it, or a file that lies outside the bundle or ``common``.
    """
    bundles = root / "bundles"
    bundle = bundles / name
    names = sorted(p.parent.parent.name for p in bundles.glob("*/configs/metadata.json"))
    if name not in names:
        raise InputError(f"{name}: no such bundle in {bundles}. There are: {', '.join(names)}.")
    files = _files(bundle, "configs/*.json", "configs/logging.conf", "docs/**/*", "LICENSE", *WEIGHTS)
    if missing := [file for file in NEEDED if file not in files]:
        raise InputError(f"{bundle}: {', '.join(missing)} missing. Add what every bundle needs.")
    package_files = _files(root / "common", "**/*.py", "py.typed")
    content = {file: _relative(path, name) for file, path in files.items()}
    content |= {f"common/{file}": path.read_bytes() for file, path in package_files.items()}
    content["requirements.txt"] = _requirements(root / "setup.cfg")
    if model_url:
        content["large_files.yml"] = _large_files(content.pop(WEIGHTS[0], None), model_url, bundle)
        content["requirements.txt"] += b"pyyaml\n"  # with which MONAI reads that file

    metadata = json.loads(content["configs/metadata.json"])
    content["README.md"] = START.format(title=metadata["name"], name=name, version=metadata["version"]).encode()
    sums = "".join(f"{hashlib.sha256(content[file]).hexdigest()}  {file}\n" for file in sorted(content))
    content["SHA256SUMS"] = sums.encode()

    target = out / f"{name}_v{metadata['version']}.zip"
    with written_beside(target) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(content):
            entry = zipfile.ZipInfo(f"{name}/{file}", DATE)
            entry.create_system = 3  # Unix, whatever this machine is
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content[file])
    return target


def _files(folder: Path, *patterns: str) -> dict[str, Path]:
    """Files of a folder by their path in it, none of them a link to the outside."""
    found = {}
    inside = folder.resolve()
    for path in sorted(p for pattern in patterns for p in folder.glob(pattern)):
        if not path.resolve().is_relative_to(inside):
            raise InputError(f"{path}: leads out of {folder}. Put the file itself there, or take the link away.")
        if path.is_file() and "__pycache__" not in path.parts:
            found[path.relative_to(folder).as_posix()] = path
    return found


def _relative(path: Path, name: str) -> bytes:
    """Content of a file, with paths in texts relative to the bundle's folder."""
    if path.suffix not in TEXT:
        return path.read_bytes()
    text = path.read_text(encoding="utf-8")
    text = text.replace(f"--bundle_root bundles/{name} ", "").replace(f"bundles/{name}/", "")
    text = text.replace(f'"bundles/{name}"', '"."').replace(
        "In the repository's folder, with the package installed (`pip install -e .`).",
        "In this bundle's folder, with its packages installed (`pip install -r requirements.txt`).",
    )
    return text.encode()


def _large_files(weights: bytes | None, url: str, bundle: Path) -> bytes:
    if weights is None:
        raise InputError(
            f"--model_url: {bundle / WEIGHTS[0]} is not there, so its hash is not known. Train it, or copy it."
        )
    digest = hashlib.sha256(weights).hexdigest()
    lines = ["large_files:", f'- path: "{WEIGHTS[0]}"', f'  url: "{url}"', f'  hash_val: "{digest}"']
    return "\n".join([*lines, '  hash_type: "sha256"', ""]).encode()


def _requirements(setup: Path) -> bytes:
    parser = SetupFile()
    parser.read(setup, encoding="utf-8")
    lines = parser["options"]["install_requires"].splitlines()
    return "\n".join([*(line for line in lines if line and not line.startswith("#")), ""]).encode()


def main() -> None:
    """Command line."""
    install_excepthook()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", help="name of a folder in bundles/")
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder for the zip file; default: dist")
    parser.add_argument("--model_url", help="where model.pt can be downloaded; it is then left out of the zip")
    arguments = parser.parse_args()
    sys.stdout.write(f"{package(arguments.bundle, arguments.out, model_url=arguments.model_url)}\n")


if __name__ == "__main__":
    main()
