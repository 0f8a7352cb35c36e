"""The zip file of a bundle: the same bytes every time, complete, and of use where this repository is not."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import monai.bundle
import nibabel as nib
import pytest
from monai.apps.utils import HashCheckError

from common.errors import InputError
from scripts.package import package
from tests.bundles.discovery import BASE_CONFIGS, NAMES, REPOSITORY
from tests.bundles.running import hide_common, make_tiny, unzip, write_sizes

every_bundle = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What packaging reads of the repository."""
    for folder in ("bundles", "common"):
        ignored = shutil.ignore_patterns("models", "runs", "eval", "__pycache__")
        shutil.copytree(REPOSITORY / folder, tmp_path / "copy" / folder, ignore=ignored)
    shutil.copy(REPOSITORY / "setup.cfg", tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def elsewhere(tmp_path: Path) -> dict[str, str]:
    """An environment in which Python finds no ``common``, although these tests run with it installed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(hide_common(tmp_path / "without"))}
    done = subprocess.run(
        [sys.executable, "-c", "import common"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "No module named 'common'" in done.stderr
    return environment


@every_bundle
def test_same_files_give_the_same_bytes(name: str, copy: Path, tmp_path: Path) -> None:
    first = package(name, tmp_path / "a", root=copy).read_bytes()
    for path in copy.rglob("*"):
        os.utime(path, (0, 0))
    (copy / "common" / "__pycache__").mkdir()
    (copy / "common" / "__pycache__" / "left.py").write_text("")
    (copy / "bundles" / name / "runs").mkdir()
    (copy / "bundles" / name / "runs" / "events").write_text("")
    assert package(name, tmp_path / "b", root=copy).read_bytes() == first


@every_bundle
def test_the_zip_follows_the_model_zoos_rules(name: str, copy: Path, tmp_path: Path) -> None:
    archive = package(name, tmp_path, root=copy)
    root = unzip(archive, tmp_path / "unzipped")
    metadata = json.loads((root / "configs/metadata.json").read_text())
    assert root.name == name
    assert archive.name == f"{name}_v{metadata['version']}.zip"
    assert metadata["version"] in metadata["changelog"]
    for file in ("LICENSE", "docs/README.md", "docs/data_license.txt", "requirements.txt", "README.md"):
        assert (root / file).stat().st_size > 0
    train, pretrain, inference = (json.loads((root / f"configs/{c}.json").read_text()) for c in BASE_CONFIGS)
    assert train["network_def"] == inference["network_def"]
    assert train["bundle_root"] == pretrain["bundle_root"] == inference["bundle_root"] == "."
    packed = {file.relative_to(root).as_posix(): file for file in root.rglob("*") if file.is_file()}
    sums = dict(line.split("  ")[::-1] for line in packed.pop("SHA256SUMS").read_text().splitlines())
    assert sums == {file: hashlib.sha256(path.read_bytes()).hexdigest() for file, path in packed.items()}
    assert not any(file.startswith(("runs", "eval", "models")) for file in packed)
    for file, path in packed.items():
        if not file.startswith("common/"):
            assert f"bundles/{name}" not in path.read_text(), file


def test_weights_are_packed_or_named_by_url_and_hash(copy: Path, tmp_path: Path) -> None:
    name = NAMES[0]
    weights = copy / "bundles" / name / "models" / "model.pt"
    with pytest.raises(InputError, match=r"model\.pt is not there"):
        package(name, tmp_path, root=copy, model_url="https://example.org/model.pt")
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    (weights.parent / "model_final.pt").write_bytes(b"not needed")
    with zipfile.ZipFile(package(name, tmp_path, root=copy)) as file:
        assert file.read(f"{name}/models/model.pt") == b"weights"
        assert f"{name}/models/model_final.pt" not in file.namelist()
        assert b"pyyaml" not in file.read(f"{name}/requirements.txt")
    hosted = tmp_path / "hosted.pt"
    shutil.move(weights, hosted)
    weights.write_bytes(b"weights")
    archive = package(name, tmp_path, root=copy, model_url=hosted.as_uri())
    with zipfile.ZipFile(archive) as file:
        assert f"{name}/models/model.pt" not in file.namelist()
        text = file.read(f"{name}/large_files.yml").decode()
        assert b"\npyyaml\n" in file.read(f"{name}/requirements.txt")
    for line in (
        'path: "models/model.pt"',
        f'url: "{hosted.as_uri()}"',
        f'hash_val: "{hashlib.sha256(b"weights").hexdigest()}"',
        'hash_type: "sha256"',
    ):
        assert line in text

    # MONAI's own commands for both downloads, from files of this machine in the place of servers
    monai.bundle.download(name=name, url=archive.as_uri(), bundle_dir=str(tmp_path / "downloaded"), progress=False)
    root = tmp_path / "downloaded" / name
    monai.bundle.download_large_files(bundle_path=str(root))
    assert (root / "models" / "model.pt").read_bytes() == b"weights"
    (root / "models" / "model.pt").unlink()
    hosted.write_bytes(b"other weights")
    with pytest.raises(HashCheckError):
        monai.bundle.download_large_files(bundle_path=str(root))


@pytest.mark.parametrize("name", ["..", "../common", "nothing", ""])
def test_only_bundles_are_packed(name: str, copy: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such bundle"):
        package(name, tmp_path, root=copy)


@pytest.mark.parametrize("place", ["bundles/{}/docs/secret.md", "bundles/{}/models", "common/secret.py"])
def test_links_to_the_outside_are_refused(place: str, copy: Path, tmp_path: Path) -> None:
    name = NAMES[0]
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "model.pt").write_bytes(b"secret")
    target = tmp_path / "outside" if place.endswith("models") else tmp_path / "outside" / "model.pt"
    (copy / place.format(name)).symlink_to(target)
    with pytest.raises(InputError, match="leads out of"):
        package(name, tmp_path, root=copy)


@pytest.mark.slow
@every_bundle
def test_the_unzipped_bundle_trains_infers_and_loads_by_itself(
    name: str, copy: Path, elsewhere: dict[str, str], phantom_dir: Path, tmp_path: Path
) -> None:
    root = unzip(package(name, tmp_path, root=copy), tmp_path / "unzipped")
    make_tiny(root)
    write_sizes(root)

    def python(*words: str, cwd: Path = root, path: str = "") -> str:
        environment = {**elsewhere, "PYTHONPATH": os.pathsep.join([elsewhere["PYTHONPATH"], *([path] if path else [])])}
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    run = ("-m", "monai.bundle", "run", "--device", "cpu", "--config_file")
    assert Path(python("-c", "import common; print(common.__file__)").strip()).parent == root / "common"
    python(*run, "configs/train.json", "--dataset_dir", str(phantom_dir))
    python(*run, "configs/inference.json", "--dataset_dir", str(phantom_dir / "imagesTs"), "--output_dir", "masks")
    (image,) = (phantom_dir / "imagesTs").glob("*.nii.gz")
    (mask,) = (root / "masks").glob("*_seg.nii.gz")
    assert nib.load(mask).shape == nib.load(image).shape

    load = f"monai.bundle.load('{name}', bundle_dir='{root.parent}', device='cpu', key_in_ckpt='model')"
    code = f"import monai.bundle; print(sum(p.numel() for p in {load}.parameters()) > 0)"
    assert python("-c", code).endswith("True\n")
    assert python("-c", code, cwd=tmp_path, path=str(root)).endswith("True\n")
