"""DiT: a diffusion transformer on patches. Peebles and Xie 2023, "Scalable diffusion models with transformers", arXiv 2212.09748.

Here is what all of them share. How the blocks hear of noise level, class and text is a kind of `DiTBlock`: `adaln` and `adaln-zero`
(dit_adaln.py), `adaln-single` (dit_single.py), `in-context` and `cross-attention` (dit_tokens.py). A new kind is one new file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from safelight.nn.attention import Heads
from safelight.nn.embed import Embedding, Sinusoid, SinusoidSpec
from safelight.nn.network import NetworkSpec, Output
from safelight.nn.pad import crop_to, joined, pad_to
from safelight.nn.places import positions
from safelight.nn.told import Told, ToldNetwork
from safelight.spec import Spec, SpecError


class DiTBlock(Spec, family="dit-block"):
    """How the blocks of a diffusion transformer hear of the noise level, the class and the text.

    each: whether its blocks can embed the noise level each for itself (`DiTSpec.each`).
    """

    each: ClassVar[bool] = False

    def network(self, spec: DiTSpec) -> DiT:
        """A `DiT` of such blocks with fresh weights."""
        raise NotImplementedError(type(self).__name__)


class DiTSpec(NetworkSpec, kind="dit"):
    """A diffusion transformer. The defaults are a small one for pictures of 28x28; `preset` and `pixart` give the published ones.

    Text (`context`) goes through a two-layer map to the width of a token, as in PixArt-alpha, and then to the blocks.
    """

    channels: int = Field(1, ge=1, description="C of the picture")
    image: int = Field(0, ge=0, description="channels of Cond.image, concatenated to the picture")
    cond: int = Field(0, ge=0, description="width of Cond.vector, 0 for none")
    cond_linear: bool = Field(True, description="a linear map of Cond.vector; else it is taken as it is, and cond is the width")
    context: int = Field(0, ge=0, description="width of Cond.tokens, 0 for none")
    learned_variance: bool = Field(False, description="a second half of outputs, the learned-variance fraction")
    patch: int = Field(2, ge=1, description="side of a patch")
    width: int = Field(192, ge=4, multiple_of=4, description="channels of a token")
    depth: int = Field(8, ge=1, description="number of blocks")
    heads: int = Field(3, ge=1, description="attention heads; must divide width")
    mlp: float = Field(4.0, gt=0, description="width of the feed-forward layer, in widths")
    qk_norm: bool = Field(False, description="RMS-normalise q and k")
    spacing: float = Field(1.0, gt=0, description="between neighbouring patches' positions; 0.5 in PixArt-alpha at 1024")
    span: int = Field(
        0, ge=0, description="patches on whose positions a side of any length is stretched or squeezed; 0: as they are counted"
    )
    embedding: Embedding = SinusoidSpec(width=256, closed=False, cos_first=True)
    block: DiTBlock = Field("adaln-zero", validate_default=True, description="how the blocks hear of noise, class and text")
    eps: tuple[float, float] = Field((1e-6, 1e-6), description="of the two norms of a block whose norms are told what to do")
    sizes: bool = Field(
        False,
        description="Cond.vector is (height, width, height / width) in pixels (cond 3), each embedded to a third of the width",
    )
    each: bool = Field(
        False,
        description="every block embeds the noise level and hears a vector of its own (cond: depth times the width, or 0)",
    )

    @classmethod
    def preset(
        cls,
        size: Literal["S", "B", "L", "XL"] = "S",
        patch: int = 2,
        channels: int = 4,
        cond: int | None = None,
        context: int = 0,
        block: DiTBlock | str = "adaln-zero",
    ) -> Self:
        """DiT-S, -B, -L or -XL of Peebles and Xie 2023, table 1, with learned variance: 33, 130, 458 and 675 M parameters at patch 2.

        cond: width of a vector that is mapped to the tokens' width. None, as published: class embeddings of that width, as they are.
        """
        depth, width, heads = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}[size]
        return cls(
            channels=channels,
            cond=width if cond is None else cond,
            cond_linear=cond is not None,
            context=context,
            learned_variance=True,
            patch=patch,
            width=width,
            depth=depth,
            heads=heads,
            block=block,
        )

    @classmethod
    def pixart(cls, size: Literal[256, 512, 1024] = 512) -> Self:
        """PixArt-alpha (Chen et al. 2023, section 2.3): XL/2, adaLN-single, T5 states of width 4096. 611 M parameters.

        size: of the pictures it was trained on. The one for 1024 is told their height, width and aspect ratio too.
        """
        plain = cls.preset("XL", cond=0, context=4096, block="adaln-single")
        large = size == 1024
        told = {"cond": 3, "sizes": True, "spacing": 0.5} if large else {}
        return cls(**{**dict(plain), "span": size // 16, **told})

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} do not divide the width {self.width}")
        if self.sizes and (self.cond != 3 or self.width % 3 or self.each):
            raise ValueError(f"sizes needs cond 3, a width that 3 divides and each False, not {self.cond} and {self.width}")
        if self.each and not getattr(self.block, "each", False):
            raise ValueError(f"each: a block '{self.block.kind}' has no embedding of its own; 'adaln' and 'adaln-zero' can")
        own = self.depth * self.width if self.each else self.width
        if self.cond and (self.each or not (self.cond_linear or self.sizes)) and self.cond != own:
            what = "with each it must be depth times the width" if self.each else "without cond_linear it must be the width"
            raise ValueError(f"cond is {self.cond}: {what}, {own}")
        return self

    def build(self) -> DiT:
        """A DiT with fresh weights, which answers 0 until it is trained (the last layer starts at zero)."""
        return self.block.network(self)


class DiT(ToldNetwork):
    """`unpatch(last(blocks(patch(x) + positions)))`; see `DiTSpec`. A kind of block adds `hear`, `listen` and `through`.

    x: (B, channels, H, W), any size: padded up to whole patches, and cropped.
    """

    spec: DiTSpec
    blocks: Sequence[Any]

    def __init__(self, spec: DiTSpec, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.spec = spec
        p, width, out = spec.patch, spec.width, spec.channels * (2 if spec.learned_variance else 1)
        self.embedding = spec.embedding.make()
        waves = spec.embedding.width
        self.time = Abreast(two_layers(waves, width) for _ in range(spec.depth)) if spec.each else two_layers(waves, width)
        self.cond: nn.Module | None = None
        if spec.sizes:
            self.cond = Sizes(width)
        elif spec.cond:
            self.cond = nn.Linear(spec.cond, width) if spec.cond_linear and not spec.each else nn.Identity()
        self.caption = (
            nn.Sequential(nn.Linear(spec.context, width), nn.GELU(approximate="tanh"), nn.Linear(width, width))
            if spec.context
            else None
        )
        self.patch = nn.Linear((spec.channels + spec.image) * p * p, width)
        self.blocks = cast("Sequence[Any]", nn.ModuleList(blocks))
        self.last = nn.Linear(width, p * p * out)

    def hear(self, time: Tensor, vector: Tensor | None) -> Told:
        """time, vector: (n, width) each, the second None without a condition. What the blocks and the last norm are told.

        With `each` they are (n, depth width), a share a block.
        """
        raise NotImplementedError

    def listen(self, text: Tensor, mask: Tensor | None) -> tuple[Any, ...]:
        """text: (B, L, width), mask: (B, L). What `through` needs of the text."""
        raise NotImplementedError

    def through(self, y: Tensor, told: Told, words: tuple[Any, ...]) -> Tensor:
        """y: (B, N, width), the picture. told: from `hear`; words: from `listen`, () without text. All blocks and the last norm."""
        raise NotImplementedError

    def start(self) -> None:
        """The start of section 3.2 and of the authors' code: Xavier everywhere, N(0, 0.02^2) for the conditions, the end at zero.

        Called by each kind once it is whole; a kind with more to say extends it.
        """
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.xavier_uniform_(m.weight)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)
        for part in (self.time, self.cond, self.caption):
            for m in part.modules() if part is not None else ():
                if isinstance(m, nn.Linear):
                    nn.init.normal_(m.weight, std=0.02)
        nn.init.zeros_(self.last.weight)

    def tell(self, noise: Tensor, vector: Tensor | None) -> Told:
        """noise: (n,); vector: (n, cond) or None. What `hear` makes of them, (n, ...) each."""
        dtype = self.last.weight.dtype
        time = self.time(self.embedding(noise).to(dtype))  # (n, width)
        if self.cond is None:
            return self.hear(time, None)
        if vector is None:
            raise SpecError(f"cond.vector is missing: the network was built with cond={self.spec.cond}")
        return self.hear(time, self.cond(vector if self.spec.sizes else vector.to(dtype)))

    def read(self, tokens: Tensor | None, mask: Tensor | None) -> tuple[Any, ...]:
        """tokens: (B, L, context), mask: (B, L). What `listen` makes of them; () without text."""
        if self.caption is None:
            return ()
        if tokens is None:
            raise SpecError(f"cond.tokens is missing: the network was built with context={self.spec.context}")
        return self.listen(self.caption(tokens.to(self.last.weight.dtype)), mask)

    def draw(self, x: Tensor, told: Told, words: tuple[Any, ...] = (), image: Tensor | None = None) -> Output:
        """x: (B, channels, H, W). image: (B or 1, image, H, W). F and fraction: (B, channels, H, W)."""
        p = self.spec.patch
        y = pad_to(joined(x, image, self.spec.image), p).unflatten(3, (-1, p)).unflatten(2, (-1, p))  # (B, C, h, p, w, p)
        h, w = y.shape[2], y.shape[4]
        y = y.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (B, h w, C p p)
        y = self.patch(y) + self._places((h, w), y)  # (B, h w, width)
        y = self.last(self.through(y, told, words))  # (B, h w, p p out)
        y = y.unflatten(2, (p, p, -1)).unflatten(1, (h, w))  # (B, h, w, p, p, out)
        y = crop_to(y.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3), x)  # (B, out, H, W)
        if not self.spec.learned_variance:
            return Output(y)
        y, v = y.chunk(2, dim=1)  # 2 x (B, channels, H, W)
        return Output(y, (v + 1) / 2)  # Nichol and Dhariwal 2021, eq. 15, with v in [-1, 1] as in their code

    def _places(self, space: tuple[int, int], like: Tensor) -> Tensor:
        """(h w, width): the positions of the patches, told or stretched as the spec says."""
        step, span = self.spec.spacing, self.spec.span
        return positions(space, self.spec.width, like, tuple(step * span / n for n in space) if span else step)

    def run(self, block: nn.Module, *inputs: Any) -> Tensor:
        """block(*inputs), its activations kept or, with `checkpointing`, made again for the backward pass."""
        if self.checkpointing and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(block, *inputs, use_reentrant=False))
        return cast(Tensor, block(*inputs))


def two_layers(inp: int, out: int) -> nn.Sequential:
    """`W2 silu(W1 x)`, out wide inside: what waves go through."""
    return nn.Sequential(nn.Linear(inp, out), nn.SiLU(), nn.Linear(out, out))


class Abreast(nn.Module):
    """Several maps of one input, their outputs side by side."""

    def __init__(self, maps: Iterable[nn.Module]) -> None:
        super().__init__()
        self.maps = nn.ModuleList(maps)

    def forward(self, x: Tensor) -> Tensor:
        """x: (n, C). Returns (n, sum of the outputs' widths)."""
        return torch.cat([m(x) for m in self.maps], dim=1)


class Sizes(nn.Module):
    """(height, width, height / width) of a picture, each as waves through two layers, side by side: a third of the width each.

    Height and width share their layers. Chen et al. 2023 (PixArt-alpha), section 2.3 and the authors' code.
    """

    def __init__(self, width: int, waves: int = 256) -> None:
        super().__init__()
        self.embedding = Sinusoid(waves, closed=False, cos_first=True)
        self.side, self.ratio = two_layers(waves, width // 3), two_layers(waves, width // 3)

    def forward(self, sizes: Tensor) -> Tensor:
        """sizes: (n, 3). Returns (n, width)."""
        waves = self.embedding(sizes.flatten()).to(self.side[0].weight.dtype).unflatten(0, (-1, 3))  # (n, 3, waves)
        return torch.cat((self.side(waves[:, :2]).flatten(1), self.ratio(waves[:, 2])), dim=1)  # (n, width)


class Halves(nn.Module):
    """What every block has: attention of tokens to each other, `out(attend(qkv(n)))`, and the layer `down(gelu(up(n)))`.

    told: numbers the block is told by a linear map of its own, `tell`; 0 for none. The norms are the kinds' affair.
    """

    def __init__(self, spec: DiTSpec, told: int = 0) -> None:
        super().__init__()
        width, inner = spec.width, int(spec.mlp * spec.width)
        if told:
            self.tell = nn.Linear(width, told)
        self.attend = Heads(spec.heads, width // spec.heads, spec.qk_norm)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def look(self, n: Tensor, mask: Tensor | None = None) -> Tensor:
        """n: (B, N, width), normed. mask: (B or 1, 1, 1, N), True where a token is seen. Returns (B, N, width)."""
        q, k, v = self.qkv(n).chunk(3, dim=2)  # 3 x (B, N, width)
        a = self.attend(self.attend.query(q), self.attend.key(k), self.attend.value(v), mask)  # (B, N, width)
        return self.out(a)  # (B, N, width)

    def feed(self, n: Tensor) -> Tensor:
        """n: (B, N, width), normed. Returns (B, N, width)."""
        return self.down(F.gelu(self.up(n), approximate="tanh"))  # (B, N, width)
