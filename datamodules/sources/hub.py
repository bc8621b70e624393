"""A data set of the hub: whole, as a copy on the disk, or row by row without one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder

    from datamodules.sources.file_rows import RawRow

_SPLIT = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<first>\d*):(?P<last>\d*)\])?")


@dataclass(frozen=True)
class HubSet:
    """Rows of a hub data set, in its own order. Arguments are those of `DataSource`."""

    path: str
    config: str | None
    data_dir: str | None
    split: str
    revision: str | None
    streaming: bool

    def rows(self) -> Iterator[RawRow]:
        """Every row of the split, or of its slice.

        Raises:
            ValueError: if there is no such set, split or slice, or a stream ends before its time.
        """
        yield from self._streamed() if self.streaming else self._copy()

    def fingerprint(self) -> str:
        """Hex digest of the bytes behind the rows; of a stream, of the names, versions and sizes that the hub gives its files."""
        if self.streaming:
            files = self._builder.config.data_files or {}
            named = {split: (list(part), part.origin_metadata) for split, part in files.items()}
            return hashlib.sha256(repr((self._builder.hash, self.config, self.split, named)).encode()).hexdigest()
        copies = sorted(Path(file["filename"]) for file in self._copy().cache_files)
        digest = hashlib.sha256(repr([copy.name for copy in copies]).encode())
        for copy in copies:
            with copy.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    def _streamed(self) -> Iterator[RawRow]:
        name, first, last = self._slice()
        read = 0
        try:
            rows: Iterable[Any] = self._builder.as_streaming_dataset(split=name)
            for row in islice(rows, first, last):
                yield row
                read += 1
        except Exception as error:  # the hub's client, the network and the files' format each raise their own
            raise ValueError(
                f"expected the rows of {self.path!r} (split {self.split!r}) from the hub, got {read} and then "
                f"{type(error).__name__}: {str(error)[:300]}. Start again: what was read is not kept. With `streaming: false` the "
                "set is copied to the disk first."
            ) from error

    def _slice(self) -> tuple[str, int, int | None]:
        match = _SPLIT.fullmatch(self.split)
        if match is None:
            raise ValueError(
                f"expected a split, or some of its rows such as train[:1000], with streaming: true, got {self.split!r}. "
                "The stream's length is not known before its end: shares need streaming: false."
            )
        return match["name"], int(match["first"] or 0), int(match["last"]) if match["last"] else None

    @cached_property
    def _builder(self) -> DatasetBuilder:
        from datasets import load_dataset_builder

        return self._asked(load_dataset_builder)

    def _copy(self) -> Dataset:
        from datasets import load_dataset

        return self._asked(load_dataset, split=self.split)

    def _asked(self, load: Any, **options: str) -> Any:  # noqa: ANN401
        options |= {} if self.revision is None else {"revision": self.revision}
        try:
            return load(self.path, name=self.config, data_dir=self.data_dir, **options)
        except Exception as error:  # the hub's client, the network and the disk each raise their own
            raise ValueError(
                f"expected a file, a folder, a pattern or a hub data set, got {self.path!r} (split {self.split!r}, revision "
                f"{self.revision}): "
                f"{type(error).__name__}: {str(error)[:300]}. Check the name, or the network."
            ) from error
