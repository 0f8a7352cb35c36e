"""What the bundles' configs call: start a run, pretrain before fine-tuning, train once and not twice."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai.bundle
from monai.bundle import ConfigParser
from monai.engines import Workflow

from common.arguments import check_arguments
from common.checkpoints import card_difference, load_checkpoint
from common.data.phantom import write_phantoms
from common.distributed import barrier, rank
from common.errors import InputError, install_excepthook
from common.handlers.resume import Resume

logger = logging.getLogger(__name__)

DEFAULT_DATASET = "phantoms"


def start_run() -> None:
    """First entry of every ``initialize``: errors of the user's in one line, mistyped arguments refused."""
    install_excepthook()
    check_arguments()
    # pydicom plugins that MONAI offers and this project does not need
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
    # MONAI's own use of deprecated torch and numpy calls is nothing the user can act on.
    warnings.filterwarnings("ignore", category=FutureWarning, module="monai")


def dataset_root(
    dataset_dir: str, *, n_unlabelled: int = 16, n_labelled: int = 8, n_test: int = 2, **options: Any
) -> str:
    """The folder of CT to train on; the default one is filled with generated chest CT.

    Args:
        dataset_dir: a folder (see ``docs/your_data.md``). The default, ``phantoms``, is generated once when it is not
            there, so that every command runs without data of one's own.
        n_unlabelled, n_labelled, n_test: how many phantoms.
        options: further arguments of :func:`common.data.phantom.write_phantoms`.
    """
    if dataset_dir == DEFAULT_DATASET:
        if rank() == 0:
            write_phantoms(DEFAULT_DATASET, n_unlabelled=n_unlabelled, n_labelled=n_labelled, n_test=n_test, **options)
        barrier()
    return dataset_dir


def pretrain_first(
    *,
    pretrained: str,
    config_files: Sequence[str],
    overrides: Mapping[str, Any],
    settings: Mapping[str, Any],
    train_cases: Sequence[Mapping[str, Any]],
    epochs: int,
    again: bool = False,
) -> bool:
    """Run the self-supervised stage when its weights are not there yet.

    Every reason not to run it is logged.

    Args:
        pretrained: the weights' file; when it exists, its card must agree with ``settings``.
        config_files: ``pretrain.json`` and its overlays.
        overrides: top-level settings that the stage shares with fine-tuning.
        settings: what the pretrained network must have in common with the network to fine-tune.
        train_cases: the fine-tuning cases; when they do not come from ``overrides["dataset_dir"]`` (MONAI Label hands
            over its own), there is nothing to pretrain on here.
        epochs: 0 skips the stage.
        again: run the stage although its weights are there.

    Returns:
        Whether pretrained weights are there to be transferred.

    Raises:
        InputError: when the weights belong to another configuration; the differences are named.
    """
    path = Path(pretrained)
    if path.exists() and not again:
        found = load_checkpoint(path, map_location="cpu").get("card", {})
        differences = card_difference(settings, {key: found.get(key) for key in settings})
        if differences:
            msg = (
                f"{path}: pretrained with another configuration ({'; '.join(differences)}). Use the same settings, "
                "or pretrain again with --pretrain_again true."
            )
            raise InputError(msg)
        logger.info("Pretraining skipped: %s is there. --pretrain_again true runs it again.", path)
        return True
    if epochs <= 0:
        logger.info("Pretraining skipped: pretrain_epochs is %d. Training starts from scratch.", epochs)
        return False
    if not cases_inside(train_cases, str(overrides["dataset_dir"])):
        logger.info("Pretraining skipped: the labelled cases do not come from dataset_dir, so no unlabelled ones do.")
        return False
    known = ConfigParser.load_config_files(list(config_files))
    if unknown := sorted(set(overrides) - set(known)):
        msg = f"pretrain_overrides: {', '.join(unknown)} not in {config_files[0]}. Remove or rename them."
        raise InputError(msg)
    logger.info("Stage 1 of 2: pretraining without labels (%s).", config_files[0])
    monai.bundle.run(config_file=list(config_files), restart=again, logging_file=False, **overrides)
    logger.info("Stage 2 of 2: fine-tuning with labels.")
    return True


def cases_inside(cases: Sequence[Mapping[str, Any]], dataset_dir: str) -> bool:
    """Whether these cases lie in ``dataset_dir``; MONAI Label hands over cases of its own, which do not."""
    root = Path(dataset_dir).resolve()
    return bool(cases) and all(root in Path(str(case["image"])).resolve().parents for case in cases)


def train(trainer: Workflow, resume: Resume) -> None:
    """Run the trainer, unless the resumed state says that it is finished.

    ignite restarts a finished engine from epoch 0, so asking it to run once more would train all over again.
    """
    if resume.finished:
        logger.info(
            "%s: all %d epochs are done; nothing to train. --restart true trains anew.",
            resume.path,
            trainer.state.max_epochs,
        )
        return
    trainer.run()
