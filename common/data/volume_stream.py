"""Volumes one after the other, where a bad one does not stop the others."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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
        background: prepare the next volume, and no more, in a thread while this one is used.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Any], Any],
        description: str = "segmenting",
        background: bool = False,
    ) -> None:
        self.data = list(data)
        self.transform = transform
        self.description = description
        self.background = background
        self.failures: list[str] = []

    def __iter__(self) -> Iterator[Any]:
        """Items that could be read, each with how long it took, ``load_seconds``."""
        for load in tqdm(self._loads(), total=len(self.data), desc=self.description, unit="volume", dynamic_ncols=True):
            try:
                loaded = load()
            except Exception as error:
                message = input_error_message(error)
                if message is None:
                    raise
                logger.error("%s", message)
                self.failures.append(message)
                continue
            yield loaded
            del loaded  # not held while the next one is waited for

    def _loads(self) -> Iterator[Callable[[], dict[str, Any]]]:
        """Per item, what returns it; in the background, the next one is on its way then."""
        if not self.background:
            yield from (partial(self._load, item) for item in self.data)
            return
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="load") as pool:
            ahead = None
            for item in self.data:
                current, ahead = ahead, pool.submit(self._load, item)
                if current is not None:
                    yield current.result
            if ahead is not None:
                yield ahead.result

    def _load(self, item: Mapping[str, Any]) -> dict[str, Any]:
        begin = time.perf_counter()
        return {**self.transform(dict(item)), "load_seconds": time.perf_counter() - begin}

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
