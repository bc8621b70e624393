"""Compares a diagnosis from checkpoints with the live callbacks' rows: `python -m studies.diagnosis_agreement LIVE DIAGNOSED`.

Both are run folders. Compared is every metric of the frozen probe bank that both have, at its first and at its last reading.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from run_folder.rows import Track, tracks_of

LEAST = 1e-3
"""Differences are relative to the larger value, and to this where both are smaller: of a change of 0 there is no share."""


def difference(live: Track, diagnosed: Track) -> float:
    """The larger of the relative differences of first and last reading."""
    ends = ((live[0][1], diagnosed[0][1]), (live[-1][1], diagnosed[-1][1]))
    return max(abs(one - other) / max(abs(one), abs(other), LEAST) for one, other in ends)


def main() -> None:
    """Print how many metrics agree how well, and the worst of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("live", type=Path)
    parser.add_argument("diagnosed", type=Path)
    asked = parser.parse_args()
    live, diagnosed = tracks_of(asked.live), tracks_of(asked.diagnosed)
    names = [name for name in live if "/bank/" in name and name in diagnosed]
    # A metric that has no value at the start (a share of a growth of 0) begins at another step in either.
    found = sorted(
        ((difference(live[name], diagnosed[name]), name) for name in names if _same_start(live, diagnosed, name)), reverse=True
    )
    print(f"{len(found)} bank metrics in both; {sum(own < 1e-4 for own, _ in found)} differ by less than 1e-4 of their value")
    for own, name in found[:5]:
        print(f"  {own:.1e}  {name}: live {live[name][-1][1]:.6g}, diagnosed {diagnosed[name][-1][1]:.6g}")


def _same_start(live: dict[str, Track], diagnosed: dict[str, Track], name: str) -> bool:
    return live[name][0][0] == diagnosed[name][0][0] == 0


if __name__ == "__main__":
    main()
