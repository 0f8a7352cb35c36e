"""What a comparison runs: its cells, and the bundle command behind each run. Nothing is run here."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from common.compare.arms import Arm, Cell, Run
from common.compare.bundles import ONE_RATE, Bundle, find_bundles
from common.compare.cases import ComparedCases, compared_cases
from common.compare.options import Options
from common.compare.pairing import find_arms
from common.compare.presets import find_variants, settings_of
from common.data.cases import Case
from common.data.datalist import image_items, labelled_items
from common.errors import InputError


class Plan:
    """Arms, cells and runs of a comparison.

    Args:
        options: checked here.

    Raises:
        InputError: for options, bundles or a folder of cases that cannot be compared.
    """

    def __init__(self, options: Options) -> None:
        options.check()
        self.options = options
        self.out = Path(options.out_dir).expanduser().absolute()
        self.dataset_dir = Path(options.dataset_dir).expanduser().absolute()
        bundles = find_bundles(options.bundles_dir, options.methods, options.overlays)
        self.folds: list[ComparedCases] = compared_cases(
            self.dataset_dir,
            folds=options.folds,
            val_fraction=options.val_fraction,
            test_fraction=options.test_fraction,
            split_seed=options.split_seed,
            patient=options.patient,
            include_held_out=options.include_held_out,
        )
        self._check_fractions()
        variants = find_variants(bundles, options.presets)
        self._check_known(options.overrides, bundles, "overrides")
        for variant in variants:
            self._check_known(variant.overrides, [variant.bundle], variant.name)
        self.arms = find_arms(variants, options, self.out)

    @cached_property
    def by_name(self) -> dict[str, Arm]:
        """Arms by their names."""
        return {arm.name: arm for arm in self.arms}

    @property
    def cells(self) -> list[Cell]:
        """Of every arm, fraction of labels and fold; scratch first, so that pairs are complete early."""
        order = {"scratch": 0, "pretrained": 1, "scratch_long": 2}
        arms = sorted(self.arms, key=lambda arm: order[arm.kind])
        fractions = self.options.label_fractions
        return [cell for fraction in fractions for arm in arms for cell in self.cells_of(arm, fraction)]

    def cells_of(self, arm: Arm, fraction: float) -> list[Cell]:
        """A cell per fold."""
        folds: list[int | None] = [None] if len(self.folds) == 1 else [*range(len(self.folds))]
        return [Cell(arm, fraction, fold) for fold in folds]

    def cases(self, cell: Cell) -> ComparedCases:
        """The cases of a cell's fold."""
        return self.folds[cell.fold or 0]

    @property
    def pretraining(self) -> list[Case]:
        """The images that pretraining sees, of all folds."""
        return self.folds[0].pretraining

    def n_labelled(self, fraction: float) -> list[int]:
        """Numbers of labelled cases to train on: one, or those of folds that differ."""
        return sorted({cases.n_labelled(fraction) for cases in self.folds})

    def candidates(self, arm: Arm) -> list[tuple[float, float]]:
        """Learning rate of the head and factor of the body that a cell of this arm may choose.

        A training from scratch may choose from those of every arm that is compared with it.
        """
        return self._candidates[arm.name]

    @cached_property
    def _candidates(self) -> dict[str, list[tuple[float, float]]]:
        return {arm.name: self._rates_and_factor(arm) for arm in self.arms}

    def _rates_and_factor(self, arm: Arm) -> list[tuple[float, float]]:
        if arm.kind == "pretrained":
            factor = self.options.body_lr_factor
            if factor is None:
                factor = float(self._config(arm, "train").get("body_lr_factor", 1.0))
            return [(lr, factor) for lr in self.options.rates(self._own_rate(arm), scratch=False)]
        members = [arm, *(a for a in self.arms if a.kind == "pretrained" and a.network == arm.network)]
        rates = [lr for member in members for lr in self.options.rates(self._own_rate(member), scratch=True)]
        return [(lr, 1.0) for lr in dict.fromkeys(rates)]

    def _own_rate(self, arm: Arm) -> float:
        rate = self._config(arm, "train").get("lr")
        if isinstance(rate, (int, float)):
            return float(rate)
        if self.options.lr is None:
            raise InputError(f"{arm.bundle.root}: train.json has no number as 'lr'. Give the rates to try as --lr.")
        return math.nan

    def pretrain(self, arm: Arm, seed: int) -> Run:
        """The pretraining that a fine-tuning seed starts from."""
        number = seed % self.options.pretrain_seeds
        key = f"pretrain/{arm.folder}/p{number}"
        config = self._config(arm, "pretrain")
        length = self._pretrain_length(config)
        arguments = {
            **self._known(arm, "pretrain"),
            **self._common(arm),
            "output_dir": str(self.out / key),
            "pretrained": str(self.out / key / "ssl.pt"),
            "seed": number,
            **length,
            "cases": image_items(self.pretraining, prepared=True),
        }
        steps = length["pretrain_epochs"] * length["pretrain_steps"]
        voxels = _voxels(config, "pretrain_batch_size")
        return Run(key, arm.bundle, ("pretrain",), arguments, steps, voxels)

    def train(self, cell: Cell, seed: int, candidate: int, steps: int | None = None) -> Run:
        """One fine-tuning, or training from scratch.

        Args:
            cell, seed: of which arm and cases, and which draw.
            candidate: position of its learning rate in :meth:`candidates`.
            steps: another number than the comparison's (``scratch_long``).
        """
        arm, cases = cell.arm, self.cases(cell)
        key = f"train/{cell.folder}/s{seed}/lr{candidate}"
        config = self._config(arm, "train")
        length = self._length(config, steps)
        lr, factor = self.candidates(arm)[candidate]
        structures = config["structures"]
        arguments = {
            **self._known(arm, "train"),
            **self._common(arm),
            "output_dir": str(self.out / key),
            "model": str(self.out / key / "model.pt"),
            "seed": seed,
            **length,
            "lr": lr,
            **arm.bundle.known({"body_lr_factor": factor} if arm.kind == "pretrained" else ONE_RATE, "train"),
            "train#dataset#data": self._labelled(cases.labelled(cell.fraction, seed), structures, prepared=True),
            "validate#dataset#data": self._labelled(cases.val, structures),
        }
        if arm.kind == "pretrained":
            arguments["pretrained"] = self.pretrain(arm, seed).arguments["pretrained"]
            arguments["pretrained_as_is"] = True  # its cases are the comparison's, which train.json cannot know
        else:
            arguments["pretrain_epochs"] = 0
        n_steps = length["epochs"] * length["steps"]
        return Run(key, arm.bundle, ("train",), arguments, n_steps, _voxels(config, "batch_size"))

    def test(self, train: Run, cell: Cell) -> Run:
        """The metrics of a chosen run on the test cases."""
        arm = cell.arm
        key = train.key.replace("train", "test", 1)
        structures = self._config(arm, "train")["structures"]
        arguments = {
            **self._known(arm, "train", "evaluate"),
            **self._common(arm),
            "output_dir": str(self.out / key),
            "model": train.arguments["model"],
            "section": "test",
            "evaluation#items": self._labelled(self.cases(cell).test, structures),
        }
        return Run(key, arm.bundle, ("train", "evaluate"), arguments)

    def example(self, train: Run, cell: Cell) -> Run:
        """The mask of the first test case by a chosen run, to look at."""
        arm = cell.arm
        key = train.key.replace("train", "example", 1)
        arguments = {
            **self._known(arm, "inference"),
            **self._common(arm),
            "dataset_dir": self.cases(cell).test[0].image,
            "output_dir": str(self.out / key),
            "model": train.arguments["model"],
            "preview": False,
        }
        return Run(key, arm.bundle, ("inference",), arguments)

    def runs(self) -> Iterator[Run]:
        """Every run whose settings are known beforehand: all but those of ``scratch_long``."""
        for arm in self.arms:
            if arm.kind == "pretrained":
                yield from (self.pretrain(arm, seed) for seed in range(self.options.pretrain_seeds))
        for cell in self.cells:
            if cell.arm.kind == "scratch_long":
                continue
            for seed in range(self.options.seeds):
                yield from (self.train(cell, seed, i) for i in range(len(self.candidates(cell.arm))))

    def _length(self, config: Mapping[str, Any], steps: int | None) -> dict[str, Any]:
        """Epochs, steps of each and epochs between validations; more steps keep the number of validations."""
        length = {"epochs": config["epochs"], "steps": config["steps"], "val_interval": config["val_interval"]}
        length |= self.options.budget
        if steps is not None:
            length["steps"] = -(-steps // length["epochs"])
        return length

    def _pretrain_length(self, config: Mapping[str, Any]) -> dict[str, int]:
        """The bundle's epochs, or fewer where only so the total comes out exactly."""
        epochs, total = int(config["pretrain_epochs"]), self.options.pretrain_steps
        if total is None:
            return {"pretrain_epochs": epochs, "pretrain_steps": int(config["pretrain_steps"])}
        epochs = next(n for n in range(min(epochs, total), 0, -1) if total % n == 0)
        return {"pretrain_epochs": epochs, "pretrain_steps": total // epochs}

    def _overrides(self, arm: Arm, *configs: str) -> dict[str, Any]:
        """Those of the comparison and of the arm; a row's ``component#argument`` is one of its pretraining."""
        own = arm.overrides if configs == ("pretrain",) else settings_of(arm.overrides)
        return {**self.options.overrides, **own}

    def _config(self, arm: Arm, *configs: str) -> dict[str, Any]:
        return arm.bundle.config(*configs, overrides=self._overrides(arm, *configs))

    def _known(self, arm: Arm, *configs: str) -> dict[str, Any]:
        return arm.bundle.known(self._overrides(arm, *configs), *configs)

    def _common(self, arm: Arm) -> dict[str, Any]:
        common: dict[str, Any] = {"bundle_root": str(arm.bundle.root), "dataset_dir": str(self.dataset_dir)}
        return common if self.options.device is None else {**common, "device": self.options.device}

    def _labelled(
        self, cases: list[Case], structures: Mapping[str, int], *, prepared: bool = False
    ) -> list[dict[str, Any]]:
        return labelled_items(self.dataset_dir, cases, structures=structures, prepared=prepared)

    def _check_fractions(self) -> None:
        for cases in self.folds:
            counts: dict[int, float] = {}
            for fraction in self.options.label_fractions:
                n = cases.n_labelled(fraction)
                if n < 1:
                    smallest = 1 / len(cases.pool)
                    msg = (
                        f"label_fraction: {fraction:g} of {len(cases.pool)} training cases leaves no labelled case. "
                        f"Give at least {smallest:.2g}, or add labelled cases."
                    )
                    raise InputError(msg)
                if n in counts:
                    msg = f"label_fraction: {counts[n]:g} and {fraction:g} are both {n} labelled cases here. Drop one."
                    raise InputError(msg)
                counts[n] = fraction

    def _check_known(self, overrides: Mapping[str, Any], bundles: list[Bundle], source: str) -> None:
        configs = ("pretrain", "train", "inference")
        for name in overrides:
            if not any(bundle.known({name: None}, c) for bundle in bundles for c in configs):
                names = sorted({key for bundle in bundles for c in configs for key in bundle.config(c)})
                near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
                hint = f"Did you mean {near[0]}?" if near else "See the bundle's train.json."
                raise InputError(f"{source}: no setting '{name}' in {', '.join(b.name for b in bundles)}. {hint}")


def _voxels(config: Mapping[str, Any], batch_size: str) -> int:
    """Voxels that go through the network per step; 0 where the config does not say so plainly."""
    voxels = config.get(batch_size)
    more = config.get(batch_size.replace("batch_size", "accumulate_steps"), 1)
    if not isinstance(voxels, int) or not isinstance(more, int) or not isinstance(config.get("roi_size"), list):
        return 0
    for n in config["roi_size"]:
        voxels *= int(n)
    return voxels * more
