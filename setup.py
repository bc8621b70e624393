"""Puts the application into the wheel, as `prefscope/application`; the package itself is declared in pyproject.toml.

Its folders have plain names (callbacks, judges, ...), which nobody wants at the top of site-packages; `prefscope.application` puts
them on the path of its own processes alone.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
LEFT_OUT = {"prefscope", "bench", "studies", "tests"}
"""The package itself, and what serves those who develop it."""
COMMANDS = tuple(sorted(path.name for path in HERE.glob("*.py") if path.name != "setup.py"))
CODE = tuple(sorted(path.parent.name for path in HERE.glob("*/__init__.py") if path.parent.name not in LEFT_OUT))
# The pages have the descriptions of metrics; the assets are the embedded model and its pool.
DATA = ("configs", "assets", "docs/metrics.md", "docs/rlhf.md")


class BuildWithApplication(build_py):  # type: ignore[misc]
    """Copies the application into the package; an editable installation reads it where it is."""

    def run(self) -> None:
        """See setuptools."""
        super().run()
        if self.editable_mode:
            return
        inside = Path(self.build_lib, "prefscope", "application")
        # Of an earlier build: what is gone from the source has to be gone here.
        shutil.rmtree(inside, ignore_errors=True)
        for name in (*COMMANDS, *CODE, *DATA):
            target = inside / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (HERE / name).is_dir():
                shutil.copytree(HERE / name, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(HERE / name, target)


if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildWithApplication})
