"""MONAI Label app for the bundles of this repository: ``scripts/monailabel --studies FOLDER``.

Beyond MONAI Label's own ``monaibundle`` app it needs no links and no network, offers a model as soon as its weights are
there, has the pretraining as a trainer of its own (on the studies without labels), and understands drawings of a part
of the structures. Settings, each as ``--conf NAME VALUE``:

- ``models``: names of bundles, separated by commas; default: all.
- ``bundles``: the folder that holds them; default: this repository's.
- ``overlay``: a config file of each bundle to lay over the others, such as ``smoke.json``.
- ``viewer``: ``slicer`` numbers the structures of a mask 1, 2, 3, ... as 3D Slicer does; default: their ids.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
from fastapi import HTTPException
from monai.bundle import ConfigParser
from monai.transforms import MapLabelValued
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.train.bundle import BundleTrainTask
from monailabel.utils.others.generic import device_list, name_to_device

from common import __version__
from common.checkpoints import check_card, load_checkpoint
from common.errors import InputError, input_error_message
from common.files import written_beside

logger = logging.getLogger(__name__)

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
Conf = dict[str, str]


def config_files(folder: str | Path, config: str, conf: Conf) -> list[str]:
    """``config`` of a bundle, and the overlay if one is asked for."""
    names = [config, *([conf["overlay"]] if conf.get("overlay") else [])]
    return [str(Path(folder) / "configs" / name) for name in names]


def read_config(folder: str | Path, config: str, conf: Conf) -> ConfigParser:
    """The settings of a bundle as this app uses them."""
    parser = ConfigParser()
    parser.read_config(config_files(folder, config, conf))
    parser["bundle_root"] = str(folder)
    return parser


class Segment(BundleInferTask):
    """Inference, refusing weights that were trained with other settings than the configuration's."""

    def __init__(self, path: str, conf: Conf) -> None:
        self.conf = conf
        super().__init__(path, conf, load_strict=True)
        self.ids: dict[str, int] = dict(self.labels)
        self.positions = {name: i for i, name in enumerate(self.ids, start=1)}
        if conf.get("viewer") == "slicer":
            self.labels: dict[str, int] = self.positions

    def _load_bundle_config(self, path: str, config: str) -> ConfigParser:
        return read_config(path, Path(config).name, self.conf)

    def _get_network(self, device: str, data: Any) -> Any:
        path = self.get_path()
        if Path(path).stat().st_mtime != (self._networks.get(device) or (None, None))[1]:
            check_card(load_checkpoint(path), path, self.bundle_config.get_parsed_content("card"))
        return super()._get_network(device, data)

    def post_transforms(self, data: Any = None) -> list[Any]:
        """Those of ``inference.json``, and the viewer's numbers."""
        steps = list(super().post_transforms(data))
        if self.labels is self.positions:
            ids, numbers = list(self.ids.values()), list(self.positions.values())
            steps.append(MapLabelValued(keys=self.key_pred, orig_labels=ids, target_labels=numbers, dtype=np.uint8))
        return steps


class FineTune(BundleTrainTask):
    """Training on the saved labels, from the pretrained weights or from the last model."""

    def __init__(self, path: str, conf: Conf) -> None:
        self.conf = conf
        super().__init__(path, conf)
        self.bundle_config_path = config_files(path, "train.json", conf)

    def _load_bundle_config(self, path: str, config: str) -> ConfigParser:
        return read_config(path, Path(config).name, self.conf)

    def config(self) -> dict[str, Any]:
        """Options that clients show: MONAI Label's, with the bundle's number of epochs."""
        return {**super().config(), "max_epochs": self.bundle_config["epochs"]}

    def _fetch_datalist(self, request: dict[str, Any], datastore: Datastore) -> list[dict[str, Any]]:
        """Cases, each with the ids that its label file holds: what was not drawn is not known, rather than absent."""
        cases = super()._fetch_datalist(request, datastore)
        for case in cases:
            case["annotated"] = [
                int(i) for i in np.unique(np.asarray(nib.Nifti1Image.from_filename(case["label"]).dataobj)) if i
            ]
        return cases

    def _load_checkpoint(self, model_pytorch: str, pretrained: bool, train_handlers: list[dict[str, Any]]) -> None:
        if pretrained:  # monailabel 0.8.5 stops here without
            super()._load_checkpoint(model_pytorch, pretrained, train_handlers)

    def _update_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        # no case lies in there, so train.json does not pretrain: here that is a trainer of its own
        overrides["dataset_dir"] = self.bundle_path
        return overrides


class Pretrain(TrainTask):
    """The self-supervised stage on the studies that nobody has labelled; the next fine-tuning starts from it."""

    def __init__(self, path: str, conf: Conf) -> None:
        self.path, self.conf = path, conf
        self.epochs = read_config(path, "pretrain.json", conf)["pretrain_epochs"]
        super().__init__("Pretraining without labels, on the studies that have none")

    def config(self) -> dict[str, Any]:
        """Options that clients show."""
        return {"device": device_list(), "max_epochs": self.epochs}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Pretrain anew and write ``models/pretrained/ssl.pt``."""
        studies = sorted(datastore.get_unlabeled_images())
        if not studies:
            raise InputError("studies: every one has a label. Add studies without labels to pretrain on.")
        monai.bundle.run(
            config_file=config_files(self.path, "pretrain.json", self.conf),
            bundle_root=self.path,
            cases=[{"image": datastore.get_image_uri(study), "case": study} for study in studies],
            pretrain_epochs=int(request.get("max_epochs", self.epochs)),
            device=name_to_device(request.get("device")),
            restart=True,
        )
        return {}


class PretrainingApp(MONAILabelApp):
    """Every bundle as a model, a trainer and a pretrainer."""

    def __init__(self, app_dir: str, studies: str, conf: Conf) -> None:
        root = Path(conf.get("bundles", BUNDLES))
        found = sorted(p.parent.parent.name for p in root.glob("*/configs/metadata.json"))
        names = [n.strip() for n in conf.get("models", ",".join(found)).split(",")]
        if unknown := sorted(set(names) - set(found)):
            raise InputError(f"models: no bundle {', '.join(unknown)} in {root}. There are: {', '.join(found)}.")
        self.bundles = {name: str(root / name) for name in names}
        self.structures: dict[str, int] = {}
        for folder in self.bundles.values():
            self.structures.update(read_config(folder, "train.json", conf)["structures"])
        # viewers make empty segments of them to draw in, before there is any model
        labels = list(self.structures)
        super().__init__(app_dir, studies, conf, "CT pretraining bundles", __doc__, __version__, labels)

    def _download_dcmqi_tools(self) -> None:
        """Fetch the program that writes DICOM SEG for a DICOMweb server; without a network, do without."""
        try:
            super()._download_dcmqi_tools()
        except OSError as error:
            logger.warning(
                "itkimage2segimage is not there and cannot be downloaded (%s). Masks can be had as NIfTI only, and no "
                "label can be saved, until dcmqi is installed.",
                error,
            )

    def init_infers(self) -> dict[str, Segment]:
        """Models that have weights by now."""
        infers = getattr(self, "_infers", {})
        for name, folder in self.bundles.items():
            if name not in infers and (Path(folder) / "models" / "model.pt").exists():
                infers[name] = Segment(folder, self.conf)
        return infers

    def init_trainers(self) -> dict[str, TrainTask]:
        """Fine-tuning and pretraining of every bundle."""
        stages = {"": FineTune, "_pretrain": Pretrain}
        return {
            name + end: task(path, self.conf) for name, path in self.bundles.items() for end, task in stages.items()
        }

    def init_strategies(self) -> dict[str, Any]:
        """Which study to label next."""
        return {"first": First(), "random": Random()}

    def info(self) -> dict[str, Any]:
        """What clients show; a model is in it as soon as its first training has ended."""
        self._infers = self.init_infers()
        return super().info()

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Segment one study; a fault of the input is answered with its one line."""
        self._infers = self.init_infers()
        name = request.get("model")
        if name in self.bundles and name not in self._infers:
            reason = "no weights yet. Label some studies and train, or copy a trained model.pt to its models folder"
            raise HTTPException(409, f"{name}: {reason}.")
        try:
            return super().infer(request, datastore)
        except Exception as error:
            message = input_error_message(error)
            if message is None:
                raise
            raise HTTPException(422, message) from error

    def on_save_label(self, image_id: str, label_id: str) -> None:  # noqa: ARG002 - MONAI Label's signature
        """Give drawn segments the ids of their names: viewers number them in their own order (``label_info``)."""
        tag = DefaultLabelTag.FINAL
        segments = self.datastore().get_label_info(label_id, tag).get("label_info", [])
        numbers = {int(s["idx"]): self.structures.get(s["name"], 0) for s in segments if "idx" in s and "name" in s}
        path = Path(self.datastore().get_label_uri(label_id, tag))
        if not numbers or not path.name.endswith((".nii", ".nii.gz")):
            return
        label = nib.Nifti1Image.from_filename(path)
        drawn = np.asarray(label.dataobj)
        mask = np.zeros(drawn.shape, dtype=np.uint8)
        for number, structure in numbers.items():
            mask[drawn == number] = structure
        with written_beside(path) as part:
            nib.save(nib.Nifti1Image(mask, label.affine), part)
        named = [{**s, "idx": self.structures.get(s["name"], 0)} for s in segments]
        self.datastore().update_label_info(label_id, tag, {"label_info": named})
