"""A picture beside every mask that inference writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ignite.engine import Events
from monai.engines import Workflow

from common.preview import preview


class MaskPreviews:
    """Draws each segmented volume with its mask to ``<case>_preview.png``.

    Args:
        output_dir: folder of the masks.
        structures: names and ids for the legend.
    """

    def __init__(self, *, output_dir: str, structures: Mapping[str, int]) -> None:
        self.output_dir = Path(output_dir)
        self.structures = dict(structures)

    def attach(self, engine: Workflow) -> None:
        """Register with an evaluator whose postprocessing saves masks."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        """Draw the volumes of this iteration."""
        for item in engine.state.output:
            image = Path(str(item["pred"].meta["filename_or_obj"]))
            mask = Path(str(item["pred"].meta["saved_to"]))
            case = mask.name.removesuffix("_seg.nii.gz")
            preview(image, mask, self.output_dir / f"{case}_preview.png", structures=self.structures)
