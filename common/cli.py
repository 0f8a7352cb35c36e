"""The commands of ``python -m common``. Heavy imports stay inside them, so that ``info`` answers at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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

    ``classes.csv`` says which kinds of lesion the labelled cases have.

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


def prepare(
    dataset_dir: str,
    out: str,
    spacing: Sequence[float] | None = None,
    workers: int = 4,
    verify: bool = False,
) -> str:
    """Resample a folder of CT once, into an archive that training reads crops from: --dataset_dir ARCHIVE.

    What is done and verifies is kept; what changed is redone. See docs/prepare.md.

    Args:
        dataset_dir: folder of CT (layouts: docs/your_data.md).
        out: the archive.
        spacing: mm, of the training. Default: the archive's, if it is there already, else that of the bundles, 1.5.
        workers: processes; each needs the memory of a few volumes.
        verify: only compare the archive and its sources with their checksums.
    """
    from common.prepare import prepare_folder

    numbers = None if spacing is None else _numbers("spacing", spacing)
    if numbers is not None and len(numbers) != 3:
        raise InputError(f"spacing: {spacing!r} given. Give three numbers in mm, such as 1.5,1.5,1.5.")
    return prepare_folder(str(dataset_dir), str(out), spacing=numbers, workers=workers, verify=verify)


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


def compare(
    dataset_dir: str,
    out_dir: str = "comparison",
    methods: str | Sequence[str] = "all",
    bundles_dir: str = "bundles",
    preset: str | Sequence[str] = (),
    overlays: str | Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    label_fraction: float | Sequence[float] = 1.0,
    seeds: int = 3,
    pretrain_seeds: int = 1,
    search_seeds: int = 1,
    lr: float | Sequence[float] | None = None,
    lr_factors: float | Sequence[float] = (0.3, 1, 3),
    scratch_lr: float | Sequence[float] | None = None,
    body_lr_factor: float | None = None,
    steps: int | None = None,
    validations: int = 4,
    pretrain_steps: int | None = None,
    scratch_long: bool = False,
    folds: int = 1,
    val_fraction: float = 0.2,
    test_fraction: float = 0.25,
    split_seed: int = 0,
    patient: str | None = None,
    include_held_out: bool = False,
    device: str | None = None,
    threads: int = 0,
    dry_run: bool = False,
) -> str:
    """Which method works on these data: pretraining methods against training from scratch, paired by seed.

    Writes report.html, report.md, runs.csv and results.json. What is complete is not done again; the same command
    started twice shares the work between two processes. See docs/compare.md.

    Args:
        dataset_dir: folder of CT with labels for some (layouts: docs/your_data.md).
        out_dir: receives everything; about 30 MB per run at smoke sizes.
        methods: names of bundles, or all.
        bundles_dir: folder of bundles.
        preset: rows of a paper's ablation as further arms, such as tcs_mae/table5.
        overlays: configs merged after every command's own, such as smoke; names or paths.
        overrides: settings for every bundle that knows them, such as "{'structures': {'heart': 3}}".
        label_fraction: shares of the labelled training cases that are used with labels.
        seeds: how many; a seed draws the labelled cases and everything random in fine-tuning.
        pretrain_seeds: pretrainings per method; fine-tuning seed s starts from pretraining s modulo this.
        search_seeds: seeds on which every learning rate is tried; the others use the best.
        lr: learning rates of the head to try. Default: each bundle's own times the factors.
        lr_factors: of the bundle's own learning rate, where lr is not given.
        scratch_lr: learning rates to try from scratch, at least as many. Default: the same.
        body_lr_factor: of the rate, for pretrained layers. Default: each bundle's own.
        steps: of fine-tuning. Default: the bundles'.
        validations: how often these steps stop to validate.
        pretrain_steps: of pretraining. Default: the bundles'.
        scratch_long: also train from scratch for as long as pretraining and fine-tuning take together.
        folds: cut the labelled cases into so many parts, each of which is the test cases once; 1 is a fixed test set.
        val_fraction: share of the labelled cases that choose learning rates and epochs.
        test_fraction: share of the labelled cases to test on, where the folder has no labelled test cases.
        split_seed: of these choices, which are the same for all seeds.
        patient: expression for the part of a case's name that names the patient; see docs/your_data.md.
        include_held_out: let pretraining see validation and test images.
        device: such as cuda:1.
        threads: of each training; 0 leaves it to torch.
        dry_run: say what would run and how long it takes, and stop.
    """
    from common.compare.command import run_comparison
    from common.compare.options import Options

    options = Options(
        dataset_dir=str(dataset_dir),
        out_dir=str(out_dir),
        bundles_dir=str(bundles_dir),
        methods=_words(methods),
        presets=_words(preset),
        overlays=_words(overlays),
        overrides=_map("overrides", overrides),
        label_fractions=_numbers("label_fraction", label_fraction),
        seeds=seeds,
        pretrain_seeds=pretrain_seeds,
        search_seeds=search_seeds,
        lr=None if lr is None else _numbers("lr", lr),
        lr_factors=_numbers("lr_factors", lr_factors),
        scratch_lr=None if scratch_lr is None else _numbers("scratch_lr", scratch_lr),
        body_lr_factor=body_lr_factor,
        steps=steps,
        validations=validations,
        pretrain_steps=pretrain_steps,
        scratch_long=scratch_long,
        folds=folds,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        split_seed=split_seed,
        patient=patient,
        include_held_out=include_held_out,
        device=device,
        threads=threads,
    )
    return run_comparison(options, dry_run=dry_run)


def _words(value: str | Sequence[str]) -> tuple[str, ...]:
    """``a,b`` as fire hands it over: a string, or a sequence of them."""
    words = value.split(",") if isinstance(value, str) else [str(word) for word in value]
    return tuple(word.strip() for word in words if word.strip())


def _numbers(name: str, value: float | Sequence[float]) -> tuple[float, ...]:
    values = value if isinstance(value, (list, tuple)) else (value,)
    if not values or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        raise InputError(f"{name}: {value!r} given. Give a number, or several with commas and no spaces.")
    return tuple(float(v) for v in values)


def _map(name: str, value: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise InputError(f"{name}: {value!r} is not a map. Write it like \"{{'spacing': [3, 3, 3]}}\".")
    return value or {}


COMMANDS = {
    "compare": compare,
    "demo": demo,
    "phantoms": phantoms,
    "info": info,
    "check": check,
    "prepare": prepare,
    "preview": preview,
    "dicomseg": dicomseg,
}
