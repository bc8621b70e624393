from __future__ import annotations

from pathlib import Path

import pytest

from judges.base import Verdict
from judges.chat.cache import VerdictCache


@pytest.mark.parametrize("content", [b"no database at all, but some text", b"SQLite format 3\0" + bytes(100)])
def test_a_file_that_is_no_cache_of_verdicts_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "verdicts.sqlite"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"expected a cache of verdicts at {path}, got: .* Move the file away"):
        VerdictCache(path)
    path.unlink()
    with VerdictCache(path) as cache:
        cache.put("key", Verdict(1.0, "said"), "judge", "1")
        assert cache.count() == 1
