"""Accounts shared out over processes: what one rank owns, and sums over all of them.

Every rank draws the same random numbers, those of all accounts, and takes its part; sums go over all ranks.
So many ranks learn what one process learns from the same accounts, up to the order in which floats are added.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist

from sekisho.errors import Interrupted, TrainingError

TIMEOUT = dt.timedelta(minutes=10)  # without a word from another rank: longer than any write or validation


class Ranks:
    """Rank ``rank`` of ``size``, the first of which looks, saves and publishes for all.

    One alone computes as if there were no ranks: not a bit differs, and nothing is sent.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: str = "cpu") -> None:
        self.rank, self.size, self.device = rank, size, device

    @classmethod
    def join(cls, device: str) -> Ranks:
        """The ranks that torchrun started this process among, on NCCL or Gloo; without it, one alone.

        Raises:
            Interrupted: the others were not met in time.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return ALONE
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        ranks = cls(int(os.environ["RANK"]), size, device)
        backend = "nccl" if device == "cuda" else "gloo"
        ranks._together(lambda: dist.init_process_group(backend, timeout=TIMEOUT))
        return ranks

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, accounts: int) -> int:
        """How many of ``accounts`` each rank owns.

        Raises:
            TrainingError: they cannot be shared out evenly.
        """
        if accounts % self.size:
            raise TrainingError(
                f"{accounts} environments cannot be shared out evenly over {self.size} ranks",
                remedy=f"take a multiple of {self.size} environments, or other train.ranks",
            )
        return accounts // self.size

    def own(self, drawn: torch.Tensor, dim: int = 0) -> torch.Tensor:
        """This rank's part of what was drawn for all accounts, which lie along ``dim``."""
        return drawn if self.size == 1 else drawn.chunk(self.size, dim)[self.rank]

    def own_rows(self, chosen: torch.Tensor, accounts: int) -> torch.Tensor:
        """Rows of this rank's batch ``(…, accounts)`` among the ``chosen`` ones of that of all ranks."""
        if self.size == 1:
            return chosen
        account = chosen % (accounts * self.size) - self.rank * accounts
        mine = (account >= 0) & (account < accounts)
        return (chosen // (accounts * self.size) * accounts + account)[mine]

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Elementwise over the ranks."""
        if self.size == 1:
            return values
        total = values.detach().clone()
        self._together(lambda: dist.all_reduce(total))
        return total

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Of all values of all ranks, each of which has as many."""
        if self.size == 1:
            return values.mean()
        return self.sum(values.sum()) / (values.numel() * self.size)

    def standardised(self, values: torch.Tensor, count: int) -> torch.Tensor:
        """Less the mean, over the standard deviation, of the ``count`` values of all ranks together."""
        if self.size == 1:
            return (values - values.mean()) / (values.std() + 1e-8)
        exact = values.double()
        total, square = self.sum(torch.stack((exact.sum(), exact.square().sum())))
        mean = total / count
        std = ((square - count * mean.square()) / (count - 1)).clamp(min=0).sqrt()
        standardised: torch.Tensor = (exact - mean) / (std + 1e-8)
        return standardised.to(values.dtype)

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its sum over the ranks, all in one message."""
        if self.size == 1:
            return
        gradients = [each.grad for each in parameters if each.grad is not None]
        total = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = torch.split(total, [each.numel() for each in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def gather(self, own: torch.Tensor) -> torch.Tensor:
        """The tensors of all ranks, one after the other along the first axis; all are of one shape."""
        if self.size == 1:
            return own
        sent = own.to(self.device, torch.uint8 if own.dtype == torch.bool else own.dtype).contiguous()
        parts = [torch.empty_like(sent) for _ in range(self.size)]
        self._together(lambda: dist.all_gather(parts, sent))
        return torch.cat(parts).to(own.device, own.dtype)

    def any(self, true_here: bool) -> bool:
        """Whether it is true on one rank at least."""
        return bool(self.gather(torch.tensor([true_here])).any())

    def from_first(self, value: Callable[[], float]) -> float:
        """What the first rank finds; the others wait for it."""
        if self.size == 1:
            return value()
        found = torch.tensor([value() if self.first else 0.0], dtype=torch.float64, device=self.device)
        self._together(lambda: dist.broadcast(found, src=0))
        return float(found)

    def require_same(self, text: str, what: str) -> None:
        """See that all ranks have the same ``text``; ``what`` says what it stands for.

        Raises:
            TrainingError: they have not.
        """
        digest = torch.tensor([list(hashlib.sha256(text.encode()).digest())])
        if bool((self.gather(digest) != digest).any()):
            raise TrainingError(
                f"rank {self.rank} of {self.size}: the ranks do not have the same {what}",
                remedy="give every node the same commit, parameters, bars and features, and one store",
            )

    def _together(self, message: Callable[[], object]) -> None:
        try:
            message()
        except RuntimeError as error:  # of Gloo and NCCL alike
            cause = str(error).splitlines()[0]
            raise Interrupted(
                f"rank {self.rank} of {self.size}: the other ranks are not there any more: {cause}",
                remedy="see what ended the first of them; started again, all go on from the checkpoint",
            ) from error


ALONE = Ranks()
