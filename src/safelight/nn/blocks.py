"""The blocks of a U-Net: what happens at one resolution, and how resolutions change.

A block maps (B, C_in, *space) to (B, C_out, *space) and is told of the noise level through `told` (B or 1, block.told): a linear
map of the time embedding, which the network makes, so that it can be tabulated over a run.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.nn.norm import Norm
from safelight.spec import Spec, SpecError

_CONV: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_CONV_T: dict[int, type[nn.ConvTranspose1d] | type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}

_MEAN = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def conv(dims: int, inp: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Module:
    """A convolution over `dims` dimensions of space with (kernel - 1) // 2 of zeros around: an odd kernel keeps the size."""
    if kernel == 1 and stride == 1 and groups == 1:
        return Pointwise(inp, out)
    return _CONV[dims](inp, out, kernel, stride=stride, padding=(kernel - 1) // 2, groups=groups)


class Pointwise(nn.Linear):
    """A 1x1 convolution: `y = W x + b` at each place. No copy when x is channels-last.

    On the CPU it is left to oneDNN as a convolution, which takes 0.6 to 0.8 of the time of the linear algebra library's matrix
    product, forward and backward; not for a batch of one, for which torch would choose a slow loop of its own.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C_in, *space). Returns (B, C_out, *space), channels-last."""
        if len(x) == 1 or x.device.type != "cpu":
            return F.linear(x.movedim(1, -1), self.weight, self.bias).movedim(-1, 1)  # (B, C_out, *space)
        y = x.flatten(2)[:, :, None]  # (B, C_in, 1, N); (B, C_in, N, 1) would not be seen as channels-last
        y = F.conv2d(y, self.weight[:, :, None, None], self.bias)  # (B, C_out, 1, N)
        return y.squeeze(2).unflatten(2, x.shape[2:])  # (B, C_out, *space)


def spread(v: Tensor, like: Tensor) -> Tensor:
    """(B or 1, C) -> (B or 1, C, 1, ...), to broadcast over the space of `like`."""
    return v.reshape(*v.shape, *(1,) * (like.ndim - 2))


class Block(Spec, family="block"):
    """A block's architecture. `gelu`: the activation in front of the map that tells it the time (GELU, else SiLU)."""

    gelu: bool = False

    def make(self, dims: int, inp: int, out: int, norm: Norm, timed: bool = True, resample: int = 0) -> TimedBlock:
        """The module from `inp` to `out` channels; `timed` False: it is not told the noise level.

        resample: -1 halves, +1 doubles the resolution within the block. Raises SpecError of a kind that cannot.
        """
        raise NotImplementedError(type(self).__name__)


class ResnetSpec(Block, kind="resnet"):
    """Norm, SiLU, convolution, twice, with a residual: the block of DDPM (Ho et al. 2020, appendix B).

    The time is added between the convolutions, or scales and shifts the second norm (`scale_shift`; Dhariwal and Nichol 2021,
    eq. 5). `zero` starts each block as the identity.
    """

    scale_shift: bool = Field(True, description="the time scales and shifts the second norm, else it is added")
    dropout: float = Field(0.0, ge=0, lt=1, description="before the last convolution")
    zero: bool = Field(True, description="the last convolution starts at zero")
    inner_gelu: bool = Field(False, description="GELU within the block, else SiLU")
    divide: float = Field(1.0, gt=0, description="the sum of both ways is divided by it: sqrt 2 keeps the variance")

    def make(self, dims: int, inp: int, out: int, norm: Norm, timed: bool = True, resample: int = 0) -> TimedBlock:
        """A `ResnetBlock`."""
        return ResnetBlock(
            dims, inp, out, norm.make(inp), norm.make(out), timed, self.scale_shift, self.dropout, self.zero, resample,
            self.inner_gelu, self.divide,
        )  # fmt: skip


class PostNormResnetSpec(Block, kind="resnet-postnorm"):
    """Convolution, norm, SiLU, twice, with a residual: the block of the tutorials that followed DDPM's first ports.

    The time scales and shifts the first norm, or is added after it.
    """

    scale_shift: bool = Field(True, description="the time scales and shifts the first norm, else it is added after it")
    dropout: float = Field(0.0, ge=0, lt=1, description="between the two halves")

    def make(self, dims: int, inp: int, out: int, norm: Norm, timed: bool = True, resample: int = 0) -> TimedBlock:
        """A `PostNormResnetBlock`."""
        _whole(self, resample)
        return PostNormResnetBlock(dims, inp, out, norm.make(out), norm.make(out), timed, self.scale_shift, self.dropout)


class ConvNextSpec(Block, kind="convnext"):
    """Depthwise 7x7, norm, 3x3 to `mult` times the width, GELU, norm, 3x3 back, with a residual.

    The annotated tutorials' form of ConvNeXt (Liu et al. 2022, figure 4), which keeps 3x3 where the paper has 1x1.
    """

    gelu: bool = True
    mult: int = Field(2, ge=1, description="how much wider inside")
    kernel: int = Field(7, ge=1, description="size of the depthwise convolution, odd")
    dropout: float = Field(0.0, ge=0, lt=1, description="before the last convolution")

    def make(self, dims: int, inp: int, out: int, norm: Norm, timed: bool = True, resample: int = 0) -> TimedBlock:
        """A `ConvNextBlock`."""
        _whole(self, resample)
        wide = out * self.mult
        return ConvNextBlock(dims, inp, out, wide, norm.make(inp), norm.make(wide), timed, self.kernel, self.dropout)


def _whole(block: Block, resample: int) -> None:
    if resample:
        raise SpecError(f"block '{block.kind}' cannot change the resolution: choose 'resnet', or another down and up")


class TimedBlock(nn.Module):
    """A block that hears `told` numbers a picture about the noise level (0: none)."""

    told: int = 0


class ResnetBlock(TimedBlock):
    """`x + conv(silu(norm(conv(silu(norm(x))) [+ time]) [* (1 + scale) + shift]))`; see `ResnetSpec`.

    resample: -1 halves by the mean of each cell, +1 doubles by repeating, x and what the first convolution sees alike (Dhariwal
    and Nichol 2021, section 3).
    """

    def __init__(
        self,
        dims: int,
        inp: int,
        out: int,
        norm1: nn.Module,
        norm2: nn.Module,
        timed: bool = True,
        scale_shift: bool = True,
        dropout: float = 0.0,
        zero: bool = False,
        resample: int = 0,
        inner_gelu: bool = False,
        divide: float = 1.0,
    ) -> None:
        super().__init__()
        self.scale_shift, self.resample, self.divide = scale_shift, resample, divide
        self.act = F.gelu if inner_gelu else F.silu
        self.told = (2 * out if scale_shift else out) if timed else 0
        self.norm1, self.conv1 = norm1, conv(dims, inp, out)
        self.norm2, self.conv2 = norm2, conv(dims, out, out)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.short = conv(dims, inp, out, 1) if inp != out else nn.Identity()
        if zero:
            for p in self.conv2.parameters():
                nn.init.zeros_(p)

    def forward(self, x: Tensor, told: Tensor | None = None) -> Tensor:
        """x: (B, C_in, *space). told: (B or 1, self.told). Returns (B, C_out, *space)."""
        h = self.act(self.norm1(x))  # (B, C_in, *space)
        if self.resample:
            x, h = resized(x, self.resample), resized(h, self.resample)  # 2 x (B, C_in, *space / 2 or * 2)
        h = self.conv1(h)  # (B, C_out, *space)
        if told is None:
            h = self.norm2(h)  # (B, C_out, *space)
        elif self.scale_shift:
            h = self.norm2(h, *told.chunk(2, dim=1))  # (B, C_out, *space)
        else:
            h = self.norm2(h + spread(told, h))  # (B, C_out, *space)
        y = self.short(x) + self.conv2(self.dropout(self.act(h)))  # (B, C_out, *space)
        return y if self.divide == 1 else y / self.divide


def resized(x: Tensor, resample: int) -> Tensor:
    """x: (B, C, *space) with every dimension of space halved (-1, by means; even sizes) or doubled (+1, by repeating)."""
    if resample > 0:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    return _MEAN[x.ndim - 2](x, 2)


class PostNormResnetBlock(TimedBlock):
    """`x + silu(norm(conv(silu(norm(conv(x)) * (1 + scale) + shift))))`; see `PostNormResnetSpec`."""

    def __init__(
        self,
        dims: int,
        inp: int,
        out: int,
        norm1: nn.Module,
        norm2: nn.Module,
        timed: bool = True,
        scale_shift: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.told = (2 * out if scale_shift else out) if timed else 0
        self.conv1, self.norm1 = conv(dims, inp, out), norm1
        self.conv2, self.norm2 = conv(dims, out, out), norm2
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.short = conv(dims, inp, out, 1) if inp != out else nn.Identity()

    def forward(self, x: Tensor, told: Tensor | None = None) -> Tensor:
        """x: (B, C_in, *space). told: (B or 1, self.told). Returns (B, C_out, *space)."""
        h = self.conv1(x)  # (B, C_out, *space)
        if told is None:
            h = F.silu(self.norm1(h))  # (B, C_out, *space)
        elif self.scale_shift:
            h = F.silu(self.norm1(h, *told.chunk(2, dim=1)))  # (B, C_out, *space)
        else:
            h = F.silu(self.norm1(h)) + spread(told, h)  # (B, C_out, *space)
        return self.short(x) + F.silu(self.norm2(self.conv2(self.dropout(h))))  # (B, C_out, *space)


class ConvNextBlock(TimedBlock):
    """`x + conv(norm(gelu(conv(norm(depthwise(x) + time)))))`; see `ConvNextSpec`."""

    def __init__(
        self,
        dims: int,
        inp: int,
        out: int,
        wide: int,
        norm1: nn.Module,
        norm2: nn.Module,
        timed: bool = True,
        kernel: int = 7,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.told = inp if timed else 0
        self.depthwise = conv(dims, inp, inp, kernel, groups=inp)
        self.norm1, self.conv1 = norm1, conv(dims, inp, wide)
        self.norm2, self.conv2 = norm2, conv(dims, wide, out)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.short = conv(dims, inp, out, 1) if inp != out else nn.Identity()

    def forward(self, x: Tensor, told: Tensor | None = None) -> Tensor:
        """x: (B, C_in, *space). told: (B or 1, C_in). Returns (B, C_out, *space)."""
        h = self.depthwise(x)  # (B, C_in, *space)
        if told is not None:
            h = h + spread(told, h)  # (B, C_in, *space)
        h = F.gelu(self.conv1(self.norm1(h)))  # (B, wide, *space)
        return self.short(x) + self.conv2(self.dropout(self.norm2(h)))  # (B, C_out, *space)


class Down(Spec, family="down"):
    """How a U-Net halves the resolution."""

    def make(self, dims: int, inp: int, out: int) -> nn.Module:
        """The module (B, inp, *space) -> (B, out, *space / 2), for even sizes."""
        raise NotImplementedError(type(self).__name__)


class ConvDown(Down, kind="conv-down"):
    """A convolution of stride 2 with one zero around: kernel 3 as in ADM and Stable Diffusion, 4 as in the first tutorial."""

    kernel: int = Field(3, ge=3, le=4, description="3 or 4")
    after: bool = Field(False, description="the zeros are only behind the picture, none in front, as in DDPM; for kernel 3")

    def make(self, dims: int, inp: int, out: int) -> nn.Module:
        """The strided convolution. Raises SpecError of zeros behind only with kernel 4."""
        if not self.after:
            return conv(dims, inp, out, self.kernel, stride=2)
        if self.kernel != 3:
            raise SpecError("down.after: zeros behind the picture only are for kernel 3")
        return ConvAfter(dims, inp, out)


class BlockDown(Down, kind="block-down"):
    """A U-Net's block halves the resolution within itself, hearing the time. Dhariwal and Nichol 2021 (ADM), section 3."""

    def make(self, dims: int, inp: int, out: int) -> nn.Module:
        """There is none: raises SpecError, as only a block of a U-Net can do it."""
        raise SpecError("down: 'block-down' is done by the blocks of a U-Net; choose 'conv-down' here")


class UnshuffleDown(Down, kind="unshuffle-down"):
    """Each 2x2 square of pixels becomes channels, then a 1x1 convolution. Shi et al. 2016, eq. 4, inverted."""

    def make(self, dims: int, inp: int, out: int) -> nn.Module:
        """An `Unshuffle`."""
        return Unshuffle(dims, inp, out)


class Up(Spec, family="up"):
    """How a U-Net doubles the resolution."""

    def make(self, dims: int, inp: int, out: int) -> nn.Module:
        """The module (B, inp, *space) -> (B, out, *space * 2)."""
        raise NotImplementedError(type(self).__name__)


class NearestUp(Up, kind="nearest-up"):
    """Each pixel becomes 2x2 equal ones, then a 3x3 convolution: no checkerboard. Odena et al. 2016."""

    def make(self, dims: int, inp: int, out: int) -> nn.Module:
        """A `Nearest`."""
        return Nearest(dims, inp, out)


class BlockUp(Up, kind="block-up"):
    """A U-Net's block doubles the resolution within itself, hearing the time. Dhariwal and Nichol 2021 (ADM), section 3."""

    def make(self, dims: int, inp: int, out: int) -> nn.Module:
        """There is none: raises SpecError, as only a block of a U-Net can do it."""
        raise SpecError("up: 'block-up' is done by the blocks of a U-Net; choose 'nearest-up' here")


class TransposedUp(Up, kind="transposed-up"):
    """A transposed convolution, kernel 4, stride 2, as in the first tutorial."""

    def make(self, dims: int, inp: int, out: int) -> nn.Module:
        """The transposed convolution."""
        return _CONV_T[dims](inp, out, 4, stride=2, padding=1)


class ConvAfter(nn.Module):
    """`y = conv(x, 0)`: kernel 3, stride 2, one zero behind each dimension of space. Ho et al. 2020 (their code)."""

    def __init__(self, dims: int, inp: int, out: int) -> None:
        super().__init__()
        self.conv = _CONV[dims](inp, out, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, *space), even sizes. Returns (B, C_out, *space / 2)."""
        return self.conv(F.pad(x, (0, 1) * (x.ndim - 2)))  # (B, C_out, *space / 2)


class Unshuffle(nn.Module):
    """`y = W unshuffle(x) + b`, where unshuffle puts the 2^dims places of a cell into channels, channel c's together.

    That is a convolution of kernel 2 and stride 2, which moves no pixels.
    """

    def __init__(self, dims: int, inp: int, out: int) -> None:
        super().__init__()
        self.proj = _CONV[dims](inp, out, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, *space), even sizes. Returns (B, C_out, *space / 2)."""
        return self.proj(x)  # (B, C_out, *space / 2)


class Nearest(nn.Module):
    """`y = conv(nearest(x))`, nearest doubling every dimension of space, the convolution 3x3.

    Computed as the transposed convolution of kernel 4 and stride 2 that it equals: along one dimension output 2i sees
    `k_0 x_(i-1) + (k_1 + k_2) x_i`, output 2i + 1 `(k_0 + k_1) x_i + k_2 x_(i+1)`. It has 4/9 of the products in two dimensions
    (measured: 0.54 to 0.65 of the time of a training step), and the doubled picture is never made; but where it is cut, at odd sizes.
    """

    def __init__(self, dims: int, inp: int, out: int) -> None:
        super().__init__()
        self.conv = conv(dims, inp, out)

    def forward(self, x: Tensor, size: torch.Size | None = None) -> Tensor:
        """x: (B, C, *space). Returns (B, C_out, *space * 2), or of `size` in space, each twice that of x or one less."""
        dims = x.ndim - 2
        if size is not None and any(n != 2 * m for n, m in zip(size, x.shape[2:], strict=True)):
            x = resized(x, 1)  # (B, C, *space * 2)
            for i, n in enumerate(size, start=2):
                x = x.narrow(i, 0, n)
            return self.conv(x)  # (B, C_out, *size)
        w: Tensor = self.conv.weight  # type: ignore[assignment]  # (C_out, C, 3, ...)
        bias: Tensor = self.conv.bias  # type: ignore[assignment]
        for _ in range(dims):
            k0, k1, k2 = w.unbind(2)  # 3 x (C_out, C, the other dimensions)
            w = torch.stack((k2, k1 + k2, k0 + k1, k0), dim=-1)  # (C_out, C, 3.., 4..): a dimension is folded and goes last
        return _TRANSPOSED[dims](x, w.transpose(0, 1), bias, stride=2, padding=1)  # (B, C_out, *space * 2)
