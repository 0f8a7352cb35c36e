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
from torch import nn

from common.arguments import check_arguments
from common.checkpoints import card_difference, load_checkpoint
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
        settings: what a pretrained network must have in common with this one; its card is compared with it.
        epochs: of pretraining; 0 leaves the stage out.
        again: pretrain although the weights are there.
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
    ) -> None:
        self.network = network
        self.pretrained = Path(pretrained)
        self.transfer_parts = tuple(transfer_parts)
        self.config_files = list(config_files)
        self.overrides = dict(overrides)
        self.settings = dict(settings)
        self.epochs = epochs
        self.again = again

    def transfer(self) -> None:
        """Copy the pretrained weights into the network, if they are there and wanted."""
        if self.epochs > 0 and self.pretrained.exists() and not self._differences():
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
            if differences := self._differences():
                msg = (
                    f"{self.pretrained}: pretrained with another configuration ({'; '.join(differences)}). Use the "
                    "same settings, or pretrain again with --pretrain_again true."
                )
                raise InputError(msg)
            logger.info("Pretraining skipped: %s is there. --pretrain_again true repeats it.", self.pretrained)
        else:
            self._run_first_stage()

    def _run_first_stage(self) -> None:
        known = ConfigParser.load_config_files(self.config_files)
        if unknown := sorted(set(self.overrides) - set(known)):
            msg = f"pretrain_overrides: {', '.join(unknown)} not in {self.config_files[0]}. Remove or rename them."
            raise InputError(msg)
        logger.info("Stage 1 of 2: pretraining without labels (%s).", self.config_files[0])
        options: dict[str, Any] = {**self.overrides, "restart": self.again, "logging_file": False}
        monai.bundle.run(config_file=self.config_files, **options)
        logger.info("Stage 2 of 2: fine-tuning with labels.")
        barrier()
        self.transfer()

    def _differences(self) -> list[str]:
        card = load_checkpoint(self.pretrained).get("card", {})
        return card_difference(self.settings, {key: card.get(key) for key in self.settings})


def cases_inside(cases: Sequence[Mapping[str, Any]], dataset_dir: str) -> bool:
    """Whether these cases lie in ``dataset_dir``; MONAI Label hands over cases of its own, which do not."""
    root = Path(dataset_dir).resolve()
    return bool(cases) and all(root in Path(str(case["image"])).resolve().parents for case in cases)


def train(trainer: Workflow, resume: Resume, process_rank: int = 0) -> None:
    """Continue where an earlier run stopped, and train to the end, unless it is reached already.

    ignite restarts a finished engine from epoch 0, so asking it to run once more would train all over again.

    Args:
        trainer: runs until its last epoch.
        resume: loads the earlier state, and saves the state on rank 0.
        process_rank: this process among several.
    """
    resume.attach(save=process_rank == 0)
    if resume.finished:
        logger.info(
            "%s: all %d epochs are done; nothing to train. --restart true trains anew.",
            resume.path,
            trainer.state.max_epochs,
        )
        return
    trainer.run()
