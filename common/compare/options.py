"""The settings of a comparison, and which of them cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Options:
    """The settings of a comparison; see :func:`common.cli.compare` for their meaning."""

    dataset_dir: str
    out_dir: str
    bundles_dir: str = "bundles"
    methods: tuple[str, ...] = ("all",)
    presets: tuple[str, ...] = ()
    overlays: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    label_fractions: tuple[float, ...] = (1.0,)
    seeds: int = 3
    pretrain_seeds: int = 1
    search_seeds: int = 1
    lr: tuple[float, ...] | None = None
    lr_factors: tuple[float, ...] = (0.3, 1.0, 3.0)
    scratch_lr: tuple[float, ...] | None = None
    body_lr_factor: float | None = None
    steps: int | None = None
    validations: int = 4
    pretrain_steps: int | None = None
    scratch_long: bool = False
    folds: int = 1
    val_fraction: float = 0.2
    test_fraction: float = 0.25
    split_seed: int = 0
    patient: str | None = None
    include_held_out: bool = False
    device: str | None = None
    threads: int = 0

    def check(self) -> None:
        """Refuse values that no comparison can have.

        Raises:
            InputError: naming the option.
        """
        for name in ("seeds", "pretrain_seeds", "search_seeds", "validations", "steps", "pretrain_steps", "folds"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise InputError(f"{name}: {value!r} given, whole numbers of at least 1 are allowed.")
        if max(self.pretrain_seeds, self.search_seeds) > self.seeds:
            msg = f"seeds: {self.seeds} given, less than pretrain_seeds or search_seeds. Give more seeds."
            raise InputError(msg)
        if self.steps is not None and self.steps % self.validations:
            near = self.steps - self.steps % self.validations or self.validations
            msg = f"steps: {self.steps} given, not a multiple of validations ({self.validations}). Try {near}."
            raise InputError(msg)
        for name in ("lr", "lr_factors", "scratch_lr"):
            rates = getattr(self, name)
            if rates is not None and (not rates or min(rates) <= 0):
                raise InputError(f"{name}: {rates} given. Give numbers above 0.")
        n_scratch, n_pretrained = len(self.rates(1.0, scratch=True)), len(self.rates(1.0, scratch=False))
        if n_scratch < n_pretrained:
            msg = (
                f"scratch_lr: {n_scratch} rates given, the pretrained arms search {n_pretrained}. An untuned baseline "
                "loses for that reason alone: give it as many."
            )
            raise InputError(msg)
        for fraction in self.label_fractions:
            if not 0 < fraction <= 1:
                raise InputError(f"label_fraction: {fraction} given, above 0 and at most 1 is allowed.")

    @property
    def budget(self) -> dict[str, int]:
        """Settings of a bundle that ``steps`` and ``validations`` stand for; none where its own length stays."""
        if self.steps is None:
            return {}
        return {"epochs": self.validations, "steps": self.steps // self.validations, "val_interval": 1}

    def rates(self, own: float, *, scratch: bool) -> tuple[float, ...]:
        """Learning rates that an arm may choose from.

        Args:
            own: the bundle's.
            scratch: whether it starts from scratch.
        """
        if scratch and self.scratch_lr is not None:
            return self.scratch_lr
        if self.lr is not None:
            return self.lr
        return tuple(float(f"{own * factor:.4g}") for factor in self.lr_factors)
