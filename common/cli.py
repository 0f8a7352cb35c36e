"""The commands of ``python -m common``. Heavy imports stay inside them, so that ``info`` answers at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.errors import InputError


def info(bundles_dir: str = "bundles") -> str:
    """List the bundles and what each is, without importing torch.

    Args:
        bundles_dir: folder of bundles.
    """
    root = Path(bundles_dir)
    files = sorted(root.glob("*/configs/metadata.json"))
    if not files:
        msg = f"{bundles_dir}: holds no bundles (no */configs/metadata.json). Pass the folder as --bundles_dir."
        raise InputError(msg)
    lines = []
    for file in files:
        metadata = json.loads(file.read_text(encoding="utf-8"))
        folder = file.parent.parent
        trained = "trained" if (folder / "models" / "model.pt").exists() else "not trained yet"
        pretrained = "pretrained" if (folder / "models" / "pretrained" / "ssl.pt").exists() else "not pretrained yet"
        lines += [
            f"{folder.name} {metadata['version']}: {metadata['description']}",
            f"  {pretrained}, {trained}; monai {metadata['monai_version']}, torch {metadata['pytorch_version']}",
            f"  python -m monai.bundle run --config_file {folder / 'configs' / 'train.json'} --dataset_dir DIR",
        ]
    return "\n".join(lines)


def phantoms(
    out_dir: str = "phantoms", n_unlabelled: int = 16, n_labelled: int = 8, n_test: int = 2, seed: int = 0
) -> str:
    """Write generated chest CT with labels, in the layout of the Medical Segmentation Decathlon.

    Args:
        out_dir: folder to write; complete files in it are kept.
        n_unlabelled: volumes without labels (imagesUn).
        n_labelled: volumes with labels (imagesTr, labelsTr).
        n_test: volumes with labels kept apart (imagesTs, labelsTs).
        seed: another seed gives other anatomies.
    """
    from common.data.phantom import write_phantoms

    folder = write_phantoms(out_dir, n_unlabelled=n_unlabelled, n_labelled=n_labelled, n_test=n_test, seed=seed)
    return f"{n_unlabelled + n_labelled + n_test} phantoms in {folder}"


def check(
    dataset_dir: str, spacing: Sequence[float] = (1.5, 1.5, 1.5), structures: Mapping[str, int] | None = None
) -> str:
    """Read every file of a folder of CT: what it holds, what caching it takes, and everything that training refuses.

    Args:
        dataset_dir: the folder a training would be given.
        spacing: mm, of the training; decides the memory of the cache.
        structures: names and ids, of the training, such as "{'heart': 3}". Default: the bundles' chest structures.
    """
    from common.data.checks import inspect_folder
    from common.data.structures import CHEST_STRUCTURES

    chosen = CHEST_STRUCTURES if structures is None else structures
    if not isinstance(chosen, Mapping) or not chosen or any(type(i) is not int for i in chosen.values()):
        msg = f"structures: {structures!r} is not a map of names to ids. Write it like \"{{'heart': 3}}\"."
        raise InputError(msg)
    report = inspect_folder(dataset_dir, structures=chosen, spacing=tuple(float(s) for s in spacing))
    text = "\n".join(report.lines())
    if report.failures:
        msg = f"{text}\n{dataset_dir}: {len(report.failures)} files would fail, listed above. Mend or remove them."
        raise InputError(msg)
    if report.notes:
        raise InputError(f"{text}\n{dataset_dir}: training would refuse these structures, as said above.")
    return text


def preview(image: str, mask: str | None = None, out: str | None = None) -> str:
    """Draw a volume, and a mask or label on it, as a PNG.

    Args:
        image: NIfTI file or DICOM folder.
        mask: NIfTI file of structure ids on the same grid.
        out: the PNG; default: beside the working directory's files, named after the image.
    """
    from common.data.structures import ALL_STRUCTURES
    from common.preview import preview as draw

    path = Path(out) if out is not None else Path(Path(image).name.split(".")[0] + "_preview.png")
    draw(image, mask, path, structures=ALL_STRUCTURES)
    return str(path)


def dicomseg(mask: str, series: str, out: str, structures: Mapping[str, int] | None = None) -> str:
    """Write a mask of a DICOM series as a DICOM segmentation object; needs highdicom, the extra `dicomseg`.

    Args:
        mask: NIfTI file of structure ids that inference wrote for the series.
        series: folder of the series.
        out: the DICOM file to write.
        structures: names and ids, such as "{'heart': 3}". Default: the project's label map.
    """
    from common.data.dicom_seg import write_dicom_seg
    from common.data.structures import ALL_STRUCTURES

    return str(write_dicom_seg(mask, series, out, structures=ALL_STRUCTURES if structures is None else structures))


def demo(out_dir: str = "demo", bundle: str = "bundles/isd_mae") -> str:
    """Pretrain, fine-tune, segment and measure on generated chest CT; about ten minutes on two CPU cores.

    Args:
        out_dir: receives the phantoms, the masks and the pictures; a second run continues or repeats what is there.
        bundle: folder of the bundle.
    """
    from common.demo import run_demo

    return run_demo(Path(out_dir), Path(bundle))


COMMANDS = {"demo": demo, "phantoms": phantoms, "info": info, "check": check, "preview": preview, "dicomseg": dicomseg}
