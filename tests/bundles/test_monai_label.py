"""The real MONAI Label server, driven over REST as its viewers drive it. Slow: scripts/test --slow."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from scripts.package import package
from tests.bundles.dicom_web import DicomWeb
from tests.bundles.discovery import NAMES, REPOSITORY, config
from tests.bundles.label_server import ENVIRONMENT, PYTHON, VENV, RefusedError, Server
from tests.bundles.running import copy_bundle, file, hide_common, make_tiny, tiny, unzip, weights, write_sizes
from tests.volumes import write_dicom

pytestmark = pytest.mark.slow
every_bundle = pytest.mark.parametrize("name", NAMES)

OUR_APP = REPOSITORY / "scripts" / "monailabel_app"
STOCK_APP = VENV / "monailabel" / "sample-apps" / "monaibundle"


@pytest.fixture(scope="module", autouse=True)
def _environment() -> None:
    """MONAI Label has an environment of its own, which ``scripts/monailabel --setup`` makes from package registries."""
    if not PYTHON.exists():
        pytest.skip(f"no MONAI Label in {VENV.name}: run scripts/monailabel --setup, which says what it cannot get")
    # torchvision from the registry does not import beside a torch without CUDA, and MONAI Label imports it to infer
    done = subprocess.run(
        [PYTHON, "-c", "import torchvision.utils, monailabel.app"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"MONAI Label in {VENV.name} does not import: {done.stderr.strip().splitlines()[-1]}")


@pytest.fixture
def studies(phantom_dir: Path, tmp_path: Path) -> Path:
    """Unlabelled CT: five phantoms, and one of them with thick slices, stored from left to right and front to back."""
    folder = tmp_path / "studies"
    folder.mkdir()
    for path in [*phantom_dir.glob("imagesTr/*"), *phantom_dir.glob("imagesUn/*")][:5]:
        shutil.copy(path, folder)
    source = nib.load(next(phantom_dir.glob("imagesTs/*.nii.gz")))
    hu, affine = np.asarray(source.dataobj), source.affine
    lps = affine @ np.diag([-1, -1, 3, 1])
    lps[:3, 3] = affine[:3, :3] @ [hu.shape[0] - 1, hu.shape[1] - 1, 0] + affine[:3, 3]
    nib.save(nib.Nifti1Image(hu[::-1, ::-1, ::3], lps), folder / "thick_lps.nii.gz")
    return folder


def labels(data: Path) -> list[Path]:
    return sorted(data.glob("labelsTr/*.nii.gz"))


def study(path: Path) -> str:
    return path.name.removesuffix(".nii.gz")


def trained_bundle(name: str, trained: dict[str, Path], folder: Path) -> Path:
    """A copy of a bundle with its trained model."""
    root = copy_bundle(name, folder)
    (root / "models").mkdir()
    shutil.copy(trained[name] / "models/model.pt", root / "models")
    return root


def from_the_command_line(root: Path, image: Path, out: Path, *configs: str) -> np.ndarray:
    """The mask that ``monai.bundle run`` writes in MONAI Label's environment, that is with the same torch."""
    files = str([str(file(root, c)) for c in ("inference", *configs)])
    words = ["run", "--config_file", files, "--bundle_root", str(root), "--dataset_dir", str(image)]
    words += ["--output_dir", str(out), "--device", "cpu", "--preview", "False"]
    command = [str(PYTHON), "-m", "monai.bundle", *words]
    subprocess.run(command, cwd=out.parent, env=ENVIRONMENT, check=True, capture_output=True)
    return np.asarray(nib.load(out / f"{study(image)}_seg.nii.gz").dataobj)


def same_weights(a: Path, b: Path) -> bool:
    """Whether two training runs have left the same; masks after a few steps may be equal although these differ."""
    first, second = weights(a), weights(b)
    return all(torch.equal(first[name], second[name]) for name in first)


def assert_on_the_grid_of(mask: Path, image: Path) -> None:
    a, b = nib.load(mask), nib.load(image)
    assert a.shape == b.shape
    np.testing.assert_allclose(a.affine, b.affine, atol=1e-4)


@every_bundle
def test_the_stock_app_serves_and_trains_the_bundle(
    name: str, trained: dict[str, Path], studies: Path, phantom_dir: Path, tmp_path: Path
) -> None:
    app = tmp_path / "monaibundle"
    shutil.copytree(STOCK_APP, app, ignore=shutil.ignore_patterns("logs", "__pycache__"))
    root = trained_bundle(name, trained, app / "model")
    write_sizes(root)
    first, second = (tmp_path / f"{n}.nii.gz" for n in ("first", "second"))
    new = next(studies.glob("*lps*"))

    with Server(app, studies, tmp_path, models=name, zoo_source="local", sam2="false") as server:
        info = server.get("/info/")
        assert info["models"][name]["labels"] == config(name, "train")["structures"]
        assert list(info["trainers"]) == [name]
        latencies = server.segment(name, first, study(new))["latencies"]
        print(f"{name}: /infer/ in seconds: {latencies}")
        assert {"pre", "infer", "invert", "post", "write", "total"} <= set(latencies)
        server.segment(name, second, file=new)
        before = np.asarray(nib.load(first).dataobj)
        for mask in (first, second):
            assert_on_the_grid_of(mask, new)
            np.testing.assert_array_equal(np.asarray(nib.load(mask).dataobj), before)
        np.testing.assert_array_equal(before, from_the_command_line(root, new, tmp_path / "one"))

        for label in labels(phantom_dir)[:2]:
            server.submit(study(label), label)
        task = server.train(name, max_epochs=1, val_split=0.5)
        assert task["status"] == "DONE", task["details"]
        server.segment(name, first, study(new))
        assert "Reload model from cache" in server.log.read_text()
        after = np.asarray(nib.load(first).dataobj)
        np.testing.assert_array_equal(after, from_the_command_line(root, new, tmp_path / "two"))
    assert not same_weights(root / "models/model.pt", trained[name] / "models/model.pt")


@pytest.mark.parametrize("name", ["isd_mae"])  # what the app adds is the same for every bundle
def test_an_annotators_first_hour_in_our_app(name: str, studies: Path, phantom_dir: Path, tmp_path: Path) -> None:
    """From no weights at all: label two, pretrain, train, segment a third, correct it, train again."""
    bundles = tmp_path / "bundles"
    root = copy_bundle(name, bundles)
    make_tiny(root)
    first, second, third = labels(phantom_dir)[:3]
    structures = config(name, "train")["structures"]
    mask = tmp_path / "mask.nii.gz"
    with Server(OUR_APP, studies, tmp_path, bundles=str(bundles), overlay="smoke.json") as server:
        info = server.get("/info/")
        assert info["models"] == {}
        assert info["labels"] == list(structures)
        assert list(info["trainers"]) == [name, f"{name}_pretrain"]
        assert info["trainers"][name]["config"]["max_epochs"] == tiny(root)["epochs"]
        assert set(info["strategies"]) == {"first", "random"}
        with pytest.raises(RefusedError, match="no weights yet") as refused:
            server.segment(name, mask, study(first))
        assert refused.value.status == 409
        sample = server.request("POST", "/activelearning/first", b"{}")[0].decode()
        assert study(sorted(studies.glob("*.nii.gz"))[0]) in sample

        server.submit(study(first), first)
        # as 3D Slicer saves: numbered in the order of its segments, whose names come along
        order = [*list(structures)[::-1], "a segment of my own"]
        segments = [{"name": n, "idx": i} for i, n in enumerate(order, start=1)]
        drawn = nib.load(second)
        ids = np.asarray(drawn.dataobj)
        numbered = np.zeros_like(ids)
        for segment in segments[:-1]:
            numbered[ids == structures[segment["name"]]] = segment["idx"]
        nib.save(nib.Nifti1Image(numbered, drawn.affine), mask)
        server.submit(study(second), mask, label_info=segments)
        saved = nib.load(studies / "labels/final" / second.name)
        known = np.isin(ids, list(structures.values()))
        np.testing.assert_array_equal(np.asarray(saved.dataobj), np.where(known, ids, 0))
        np.testing.assert_array_equal(saved.affine, drawn.affine)

        for trainer in (f"{name}_pretrain", name):
            task = server.train(trainer, max_epochs=1, val_split=0.5)
            assert task["status"] == "DONE", task["details"]
        assert (
            "models/pretrained/ssl.pt: " in server.log.read_text()
        )  # "... tensors loaded" into the network to fine-tune
        assert list(server.get("/info/")["models"]) == [name]
        params = server.segment(name, mask, study(third))
        assert params["label_names"] == structures
        assert_on_the_grid_of(mask, studies / third.name)
        before = np.asarray(nib.load(mask).dataobj)
        line = from_the_command_line(root, studies / third.name, tmp_path / "one", "smoke")
        np.testing.assert_array_equal(before, line)

        server.submit(study(third), third)
        shutil.copy(root / "models/model.pt", tmp_path / "earlier.pt")
        task = server.train(name, max_epochs=1, val_split=0.0, pretrained=False)
        assert task["status"] == "DONE", task["details"]
        assert not same_weights(root / "models/model.pt", tmp_path / "earlier.pt")
        server.segment(name, mask, study(third))
        assert "Reload model from cache" in server.log.read_text()


@pytest.mark.parametrize("name", NAMES[:1])
def test_our_app_refuses_what_does_not_fit_in_one_line(
    name: str, trained: dict[str, Path], studies: Path, tmp_path: Path
) -> None:
    """Weights that were trained at another spacing, and a file that is no CT; and numbers for 3D Slicer."""
    bundles = tmp_path / "bundles"
    root = trained_bundle(name, trained, bundles)
    make_tiny(root)
    new = next(studies.glob("*lps*"))
    mask, numbered = tmp_path / "mask.nii.gz", tmp_path / "numbered.nii.gz"
    structures = config(name, "train")["structures"]
    with Server(OUR_APP, studies, tmp_path, bundles=str(bundles), overlay="smoke.json", viewer="slicer") as server:
        params = server.segment(name, numbered, study(new))
        assert params["label_names"] == {n: i for i, n in enumerate(structures, start=1)}
        broken = tmp_path / "broken.nii.gz"
        broken.write_bytes(new.read_bytes()[:1000])
        with pytest.raises(RefusedError) as refused:
            server.segment(name, mask, file=broken)
        assert refused.value.status == 422
    ids = from_the_command_line(root, new, tmp_path / "one", "smoke")
    by_number = np.array([0, *structures.values()])
    np.testing.assert_array_equal(by_number[np.asarray(nib.load(numbered).dataobj)], ids)

    write_sizes(root)
    text = file(root, "inference").read_text().replace('"spacing": [6.0, 6.0, 6.0]', '"spacing": [5.0, 5.0, 5.0]')
    file(root, "inference").write_text(text)
    with Server(OUR_APP, studies, tmp_path, bundles=str(bundles)) as server:
        with pytest.raises(RefusedError, match="spacing") as refused:
            server.segment(name, mask, study(new))
        assert refused.value.status == 422


@pytest.mark.parametrize("name", NAMES[:1])
def test_our_app_segments_a_series_of_a_dicomweb_server(
    name: str, trained: dict[str, Path], phantom_dir: Path, tmp_path: Path
) -> None:
    bundles = tmp_path / "bundles"
    root = trained_bundle(name, trained, bundles)
    make_tiny(root)
    phantom = nib.load(next(phantom_dir.glob("imagesTs/*.nii.gz")))
    spacing = [float(s) for s in phantom.header.get_zooms()]
    series = write_dicom(tmp_path / "store" / "series", np.asarray(phantom.dataobj).astype(np.int16), spacing=spacing)
    # stands for the program that makes DICOM SEG, so that nothing is downloaded: it is not needed to segment
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "itkimage2segimage").write_text("#!/bin/sh\nexit 1\n")
    (tools / "itkimage2segimage").chmod(0o755)
    environment = {
        "PATH": f"{tools}:{ENVIRONMENT['PATH']}",
        "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(tmp_path / "cache"),
    }
    mask, conf = tmp_path / "mask.nii.gz", {"bundles": str(bundles), "overlay": "smoke.json"}
    with (
        DicomWeb(series.parent) as store,
        Server(OUR_APP, store.url, tmp_path, environment=environment, **conf) as server,
    ):
        (uid,) = store.series
        assert server.get("/info/")["datastore"]["total"] == 1
        server.segment(name, mask, uid)
    from_the_command_line(root, series, tmp_path / "one", "smoke")
    stored, typed = (nib.as_closest_canonical(nib.load(m)) for m in (mask, tmp_path / "one" / "series_seg.nii.gz"))
    np.testing.assert_allclose(stored.affine, typed.affine, atol=1e-3)
    np.testing.assert_array_equal(np.asarray(stored.dataobj), np.asarray(typed.dataobj))


@pytest.mark.parametrize("name", NAMES[:1])
def test_a_package_is_served_where_nothing_else_of_this_repository_is(
    name: str, trained: dict[str, Path], studies: Path, phantom_dir: Path, tmp_path: Path
) -> None:
    app = tmp_path / "monaibundle"
    shutil.copytree(STOCK_APP, app, ignore=shutil.ignore_patterns("logs", "__pycache__"))
    root = unzip(package(name, tmp_path), app / "model")
    write_sizes(root)
    (root / "models").mkdir(exist_ok=True)
    shutil.copy(trained[name] / "models/model.pt", root / "models")
    nowhere = hide_common(tmp_path / "without")
    mask, image = tmp_path / "mask.nii.gz", next(studies.glob("*lps*"))
    conf = {"models": name, "zoo_source": "local", "sam2": "false"}
    with Server(app, studies, tmp_path, python_path=nowhere, **conf) as server:
        server.segment(name, mask, study(image))
        assert_on_the_grid_of(mask, image)
        server.submit(study(labels(phantom_dir)[0]), labels(phantom_dir)[0])
        task = server.train(name, max_epochs=1, val_split=0.0)
        assert task["status"] == "DONE", task["details"]
