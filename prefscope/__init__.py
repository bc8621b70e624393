"""The installed package: `prefscope.diagnose(checkpoints, reference=..., pairs=...)`, and `prefscope.huggingface` for trainers.

Importing it loads nothing else: the application runs in processes of its own.
"""

from prefscope.diagnosis import Diagnosis, diagnose

__version__ = "0.1.0"
__all__ = ["Diagnosis", "__version__", "diagnose"]
