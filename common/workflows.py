"""What the bundles' configs call: start a run, pretrain before fine-tuning, train once and not twice."""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai.bundle
import torch
from monai.bundle import ConfigParser
from monai.engines import Workflow
from torch import nn

from common.arguments import check_arguments
from common.checkpoints import card_difference, load_checkpoint
from common.data.fingerprint import digest
from common.data.phantom import write_phantoms
from common.distributed import barrier, rank
from common.errors import InputError, install_excepthook
from common.handlers.resume import Resume
from common.transfer import transfer

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
    # the rate follows the batches, and a step may take several of them (accumulate_steps)
    warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")


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


class TwoStages:
    """Pretraining without labels, then fine-tuning of the same network.

    A bundle's ``initialize`` calls :meth:`transfer`, which only copies weights that are there already: applications
    initialize a workflow to look at it (``monai.bundle.load``) or to load a model of their own into it (MONAI Label).
    Its ``run`` calls :meth:`pretrain`.

    Args:
        network: the network to fine-tune.
        pretrained: file of the pretrained weights.
        transfer_parts: children of the network that take them.
        config_files: ``pretrain.json`` and its overlays.
        overrides: top-level settings that the pretraining shares with the fine-tuning.
        settings: what a pretrained network must have in common with this one whatever else differs.
        epochs: of pretraining; 0 leaves the stage out.
        again: pretrain although the weights are there.
        as_is: use the weights that are there although they were pretrained in another way or on other cases.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        pretrained: str,
        transfer_parts: Sequence[str],
        config_files: Sequence[str],
        overrides: Mapping[str, Any],
        settings: Mapping[str, Any],
        epochs: int,
        again: bool = False,
        as_is: bool = False,
    ) -> None:
        self.network = network
        self.pretrained = Path(pretrained)
        self.transfer_parts = tuple(transfer_parts)
        self.config_files = list(config_files)
        self.overrides = dict(overrides)
        self.settings = dict(settings)
        self.epochs = epochs
        self.again = again
        self.as_is = as_is

    def transfer(self) -> None:
        """Copy the pretrained weights into the network, if they are there, wanted and of this network."""
        if self.epochs <= 0 or not self.pretrained.exists():
            return
        if differences := self._differences(self.settings):
            logger.info("%s: not transferred (%s).", self.pretrained, "; ".join(differences))
            return
        transfer(self.network, self.pretrained, parts=self.transfer_parts)

    def pretrain(self, train_cases: Sequence[Mapping[str, Any]]) -> None:
        """Run the first stage unless its weights are there, and transfer them. Every reason not to is logged.

        Args:
            train_cases: the fine-tuning cases; MONAI Label hands over its own, and then there is no folder of
                unlabelled ones.

        Raises:
            InputError: when the weights there belong to another configuration; the differences are named.
        """
        if self.epochs <= 0:
            logger.info("Pretraining skipped: pretrain_epochs is %d. Training starts from scratch.", self.epochs)
        elif not cases_inside(train_cases, str(self.overrides["dataset_dir"])):
            logger.info("Pretraining skipped: the labelled cases are not from dataset_dir, which may not be there.")
        elif self.pretrained.exists() and not self.again:
            if differences := self._differences(self.settings if self.as_is else self._card_of_first_stage()):
                remedy = "--pretrain_again True pretrains again"
                if not self._differences(self.settings):
                    remedy += ", --pretrained_as_is True uses these weights nevertheless"
                msg = (
                    f"{self.pretrained}: pretrained with another configuration ({'; '.join(differences)}). Repeat its "
                    f"settings, or: {remedy}."
                )
                raise InputError(msg)
            logger.info("Pretraining skipped: %s is there. --pretrain_again True repeats it.", self.pretrained)
        else:
            self._run_first_stage()

    def _run_first_stage(self) -> None:
        logger.info("Stage 1 of 2: pretraining without labels (%s).", self.config_files[0])
        self._check_overrides()
        options: dict[str, Any] = {**self.overrides, "restart": self.again, "logging_file": False}
        monai.bundle.run(config_file=self.config_files, **options)
        # the first stage's network and cached volumes sit in reference cycles
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        barrier()
        logger.info("Stage 2 of 2: fine-tuning with labels.")
        self.transfer()

    def _check_overrides(self) -> None:
        known = ConfigParser.load_config_files(self.config_files)
        if unknown := sorted(set(self.overrides) - set(known)):
            msg = f"pretrain_overrides: {', '.join(unknown)} not in {self.config_files[0]}. Remove or rename them."
            raise InputError(msg)

    def _card_of_first_stage(self) -> dict[str, Any]:
        """The card that the first stage would write now."""
        self._check_overrides()
        parser = ConfigParser()
        parser.read_config(self.config_files)
        for name, value in self.overrides.items():
            parser[name] = value
        return parser.get_parsed_content("card")

    def _differences(self, expected: Mapping[str, Any]) -> list[str]:
        card = load_checkpoint(self.pretrained).get("card", {})
        return card_difference(expected, {key: card.get(key) for key in expected})


def cases_inside(cases: Sequence[Mapping[str, Any]], dataset_dir: str) -> bool:
    """Whether these cases lie in ``dataset_dir``; MONAI Label hands over cases of its own, which do not.

    Links are not followed: a folder of links to an archive is a dataset of its own.
    """
    root = _absolute(dataset_dir)
    return bool(cases) and all(root in _absolute(case["image"]).parents for case in cases)


def _absolute(path: Any) -> Path:
    return Path(os.path.abspath(os.path.expanduser(str(path))))


def case_digest(cases: Sequence[Mapping[str, Any]]) -> str:
    """Number and fingerprint of a list of cases, by their names: changes when another case is used."""
    names = sorted(str(case.get("case", case["image"])) for case in cases)
    return f"{len(names)} cases, {hashlib.sha256(chr(10).join(names).encode()).hexdigest()[:12]}"


def file_digest(path: str) -> str:
    """Fingerprint of a file's content, ``"none"`` when it is not there."""
    if not os.path.isfile(path):
        return "none"
    return digest(path)[:12]


def train(trainer: Workflow, resume: Resume, process_rank: int = 0) -> None:
    """Continue where an earlier run stopped, and train to the end, unless it is reached already.

    ignite restarts a finished engine from epoch 0, so asking it to run once more would train all over again; a finished
    run whose model was deleted since is trained anew.

    Args:
        trainer: runs until its last epoch.
        resume: loads the earlier state, and saves the state on rank 0.
        process_rank: this process among several.
    """
    resume.attach(save=process_rank == 0)
    if resume.finished:
        logger.info(
            "%s: all %d epochs are done; nothing to train. --restart True trains anew.",
            resume.path,
            trainer.state.max_epochs,
        )
        return
    trainer.run()
