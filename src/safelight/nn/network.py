"""What a network is: a function of (x, noise, cond) that a denoiser wraps. It knows no process and no parameterization."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from safelight.cond import Cond
from safelight.spec import Spec


class Output(NamedTuple):
    """What a network returns.

    F: (B, C, *space), the network's raw prediction; what it means (eps, v, ...) is the parameterization's affair.
    fraction: (B, C, *space) or None, the learned-variance fraction (0 the small, 1 the large posterior variance).
    losses: auxiliary losses of the network itself (load balance of experts, edges), each a scalar, added in training.
    """

    F: Tensor
    fraction: Tensor | None = None
    losses: Mapping[str, Tensor] = {}


class NetworkSpec(Spec, family="network"):
    """The architecture of a network: everything needed to build it with fresh weights.

    answers: whether it answers with classes (F: (B, classes)) instead of a picture. Such a one hears no label: it is to say it.
    """

    answers: ClassVar[bool] = False

    def build(self) -> Network:
        """A network of this architecture with freshly initialised weights."""
        raise NotImplementedError(type(self).__name__)


class Network(nn.Module):
    """A trainable function `forward(x, noise, cond) -> Output`. `self.spec` is the config it was built from.

    checkpointing: when True, activations inside a block are not kept for the backward pass but computed again (Chen et al. 2016,
    "Training deep nets with sublinear memory cost"): less memory, about a third more time, equal gradients.
    """

    spec: Any
    checkpointing: bool = False

    def forward(self, x: Tensor, noise: Tensor, cond: Cond | None = None) -> Output:
        """x: (B, C, *space). noise: (B,) what the parameterization tells of the noise level. cond: the conditioning or None."""
        raise NotImplementedError

    def bind(self, cond: Cond | None, noises: Sequence[float] = ()) -> Callable[[Tensor, Tensor], Output]:
        """The same function of (x, noise) with everything that is constant over a run computed once.

        noises: the values that `noise` will take in the run, so that their embeddings can be tabulated; other values are
        accepted too. The bound function takes noise of shape (B,), or (1,) for a level that all pictures share, on any device.
        A result is the same as that of `forward`. The default binds nothing but the conditioning.
        """
        return lambda x, noise: self(x, noise.to(x.device).expand(len(x)), cond)
