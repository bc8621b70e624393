"""A stream of uniforms for every completion, which depends on nothing but the completion's own seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def uniforms(seed: int, prompt: Sequence[int], sample: int, count: int) -> npt.NDArray[np.float64]:
    """The first `count` numbers in [0, 1) of a completion's stream; number t decides its token t.

    Philox4x64-10 (Salmon et al. 2011) under the 128-bit key blake2b(seed, sample, prompt), 53 bits a number. Keyed by the
    prompt's content, so that neither the other prompts of a call, nor their order, nor how they are batched, plays a part.

    Args:
        seed: of the call.
        prompt: token ids.
        sample: which completion of this prompt, >= 0.
        count: numbers, >= 0.

    Returns:
        `[count]`.
    """
    text = f"{seed} {sample} " + ",".join(map(str, prompt))
    key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
    # random_raw, not Generator.random: only the raw stream is promised not to change between numpy's versions (NEP 19).
    bits = np.random.Philox(key=key).random_raw(count)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
