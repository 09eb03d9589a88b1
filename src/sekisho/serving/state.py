"""The state of a recurrent policy, which the caller carries: pods keep nothing between two requests.

With every answer go the next state, its sequence number and a digest over release, number and values. The
caller sends all of them back with the next bar. A state that was changed, mixed up or given another number is
refused; one that another release gave out is not understood by this one, which begins anew instead.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from sekisho.serving.guard import Float32


@dataclass(frozen=True)
class CarriedState:
    """A state ``(N, A, H)`` as it came in a request."""

    values: Float32
    sequence: int  # 0 where an episode begins; one more with every answer
    digest: str  # what the answer that it came with said
    release: str  # <model>/<seq>@sha256:<manifest digest> of that answer

    def is_sealed(self) -> bool:
        """Whether the digest is the one of these values under this number and release."""
        return self.digest == seal(self.values, self.sequence, self.release)


def seal(values: Float32, sequence: int, release: str) -> str:
    """sha256 hex over release, sequence number and the float32 little-endian bytes of a state."""
    head = f"sekisho-state-1\n{release}\n{sequence}\n{values.shape}\n".encode()
    return hashlib.sha256(head + np.ascontiguousarray(values, dtype="<f4").tobytes()).hexdigest()
