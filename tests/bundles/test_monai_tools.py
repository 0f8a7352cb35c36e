"""MONAI's own commands and applications on every bundle."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import monai.bundle
import nibabel as nib
import numpy as np
import onnxruntime
import pytest
import torch

from tests.bundles.discovery import NAMES, REPOSITORY, config
from tests.bundles.running import assert_same_weights, copy_bundle, file, make_tiny, run, tiny

pytestmark = pytest.mark.parametrize("name", NAMES)


def network_settings(root: Path) -> dict[str, object]:
    """Tiny settings of the network only, as export commands take them."""
    inference = json.loads(file(root, "inference").read_text())
    return {k: v for k, v in tiny(root).items() if k in inference and k != "device"}


def channels(name: str) -> int:
    """Input channels of the network."""
    count: int = config(name, "metadata")["network_data_format"]["inputs"]["image"]["num_channels"]
    return count


def test_network_takes_and_gives_what_metadata_says(name: str) -> None:
    root = REPOSITORY / "bundles" / name
    smoke = json.loads(file(root, "smoke").read_text())
    inference = json.loads(file(root, "inference").read_text())
    knobs = {k: v for k, v in smoke.items() if k in inference and not k.startswith("_")}
    monai.bundle.verify_net_in_out(
        net_id="network_def",
        meta_file=str(file(root, "metadata")),
        config_file=str(file(root, "inference")),
        device="cpu",
        **knobs,
    )


def test_bundle_loads_by_name(
    name: str, trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``monai.bundle.load`` pairs train.json's network with models/model.pt, and trains nothing on the way."""
    root = tmp_path / "bundles" / name
    shutil.copytree(trained[name] / "configs", root / "configs")
    (root / "models").mkdir()
    shutil.copy(trained[name] / "models/model.pt", root / "models/model.pt")
    for base in ("train", "inference"):  # a user who trains small writes the sizes into the configs
        content = {**json.loads(file(root, base).read_text()), **network_settings(root)}
        file(root, base).write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    saved = torch.load(root / "models/model.pt", weights_only=True)["model"]
    for kind in ("train", "inference"):
        network = monai.bundle.load(
            name=name, bundle_dir="bundles", workflow_type=kind, device="cpu", key_in_ckpt="model"
        )
        for key, value in network.state_dict().items():
            assert torch.equal(value, saved[key])
    assert not (tmp_path / "phantoms").exists()
    assert not (root / "models/pretrained").exists()


def export_torchscript(name: str, root: Path, path: Path) -> None:
    """With the tiny sizes in an overlay, as a user exports with ``smoke.json``."""
    make_tiny(root)
    monai.bundle.ckpt_export(
        net_id="network_def",
        filepath=str(path),
        ckpt_file=str(root / "models/model.pt"),
        meta_file=str(file(root, "metadata")),
        config_file=[str(file(root, "inference")), str(file(root, "smoke"))],
        key_in_ckpt="model",
        use_trace=True,
        input_shape=[1, channels(name), 32, 32, 32],
    )


def test_torchscript_export_gives_the_same_scores(name: str, trained: dict[str, Path], tmp_path: Path) -> None:
    root = trained[name]
    exported = tmp_path / "model.ts"
    export_torchscript(name, root, exported)
    image = torch.rand(1, channels(name), 32, 32, 32)
    torch.testing.assert_close(torch.jit.load(exported)(image), reference(root, image), atol=1e-4, rtol=1e-4)


def test_inference_runs_from_the_exported_file(
    name: str, trained: dict[str, Path], phantom_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One override, no weights beside it: the masks of the exported network, on real CT where there is some."""
    images = Path(os.environ["CT_DATA_DIR"]) / "imagesTs" if "CT_DATA_DIR" in os.environ else phantom_dir / "imagesTs"
    image = sorted(images.glob("*.nii.gz"))[0]
    exported = tmp_path / "model.ts"
    export_torchscript(name, trained[name], exported)
    root = copy_bundle(name, tmp_path)
    network = {"_target_": "common.exports.ExportedNetwork", "path": str(exported)}
    options = {"dataset_dir": str(image), "preview": False}
    run(trained[name], "inference", output_dir=str(tmp_path / "plain"), **options)
    run(root, "inference", output_dir=str(tmp_path / "exported"), network_def=network, **options)
    assert "exported with other config files" not in caplog.text
    plain, same = (np.asarray(nib.load(next((tmp_path / o).iterdir())).dataobj) for o in ("plain", "exported"))
    assert (plain == same).mean() > 0.9999
    assert len(np.unique(same)) > 1
    run(root, "inference", output_dir=str(tmp_path / "other"), network_def=network, spacing=[7.0, 7.0, 7.0], **options)
    assert "exported with other config files (spacing: [7.0, 7.0, 7.0] here" in caplog.text


def test_onnx_export_gives_the_same_scores_at_another_size(name: str, trained: dict[str, Path], tmp_path: Path) -> None:
    root = trained[name]
    settings = network_settings(root)
    axes = {"image": {2: "h", 3: "w", 4: "d"}, "pred": {2: "h", 3: "w", 4: "d"}}
    exported = tmp_path / "model.onnx"
    monai.bundle.onnx_export(
        net_id="network_def",
        filepath=str(exported),
        ckpt_file=str(root / "models/model.pt"),
        meta_file=str(file(root, "metadata")),
        config_file=str(file(root, "inference")),
        key_in_ckpt="model",
        use_trace=True,
        input_shape=[1, channels(name), 32, 32, 32],
        converter_kwargs={
            "opset_version": 18,
            "dynamo": False,
            "input_names": ["image"],
            "output_names": ["pred"],
            "dynamic_axes": axes,
        },
        **settings,
    )
    image = torch.rand(1, channels(name), 64, 32, 32)
    scores = onnxruntime.InferenceSession(str(exported)).run(None, {"image": image.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(scores), reference(root, image), atol=1e-3, rtol=1e-3)


def reference(root: Path, image: torch.Tensor) -> torch.Tensor:
    parser = monai.bundle.ConfigParser(json.loads(file(root, "inference").read_text()))
    parser.update(network_settings(root))
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(root / "models/model.pt", weights_only=True)["model"])
    with torch.no_grad():
        return network.eval()(image)


def test_training_as_monai_label_starts_it(
    name: str, phantom_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Cases handed over, ids of the mask files, one labelled case only, no dataset_dir: trained, and not lost."""
    root = copy_bundle(name, tmp_path)
    case = sorted((phantom_dir / "labelsTr").glob("*.nii.gz"))[0]
    data = [{"image": str(phantom_dir / "imagesTr" / case.name), "label": str(case)}]
    with caplog.at_level("INFO"):
        run(
            root,
            "train",
            **{
                "dataset_dir": str(tmp_path / "not_there"),
                "train#dataset#data": data,
                "validate#dataset#data": [],
                "train#trainer#max_epochs": 1,
                "device": "cpu",
            },
        )
    assert "Pretraining skipped" in caplog.text
    assert_same_weights(root / "models/model_final.pt", root / "models/model.pt")
