"""The embedded task. Its class stood in a module of this name, which older run folders still name."""

from datamodules.tasks.arithmetic.task import ArithmeticTask

__all__ = ["ArithmeticTask"]
