"""Volumes one after the other, where a bad one does not stop the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch.utils.data import IterableDataset
from tqdm import tqdm

from common.errors import InputError, input_error_message

logger = logging.getLogger(__name__)


class VolumeStream(IterableDataset):
    """Transforms volumes in order; one that cannot be read is reported, remembered and left out.

    Use it with ``num_workers=0``: failures are remembered in the process that reads.

    Args:
        data: items such as ``{"image": path}``.
        transform: loading and preprocessing.
        description: what is done with them.
    """

    def __init__(
        self, data: Sequence[Mapping[str, Any]], transform: Callable[[Any], Any], description: str = "segmenting"
    ) -> None:
        self.data = list(data)
        self.transform = transform
        self.description = description
        self.failures: list[str] = []

    def __iter__(self) -> Iterator[Any]:
        """Items that could be read."""
        for item in tqdm(self.data, desc=self.description, unit="volume", dynamic_ncols=True):
            try:
                transformed = self.transform(dict(item))
            except Exception as error:
                message = input_error_message(error)
                if message is None:
                    raise
                logger.error("%s", message)
                self.failures.append(message)
                continue
            yield transformed

    def report(self) -> None:
        """Say how many volumes were done.

        Raises:
            InputError: when some could not be read, after all others were done.
        """
        done = len(self.data) - len(self.failures)
        if self.failures:
            msg = f"{len(self.failures)} of {len(self.data)} volumes could not be used ({done} done): " + " | ".join(
                self.failures
            )
            raise InputError(msg)
        logger.info("%d volumes done.", done)
