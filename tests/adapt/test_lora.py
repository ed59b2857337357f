"""LoRA on a model: against its formula, against peft, and the base as it was to the last bit."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from safelight.adapt.lora import Change, Lora, LoraUse, tagged, wear
from safelight.nn.attention import LinearAttentionSpec, TransformerBlock
from safelight.nn.blocks import Nearest, Pointwise
from safelight.nn.joined import joined
from safelight.nn.norm import GroupNormSpec
from safelight.spec import SpecError


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Small(nn.Module):
    """A linear layer, a convolution and a transformer block with its q, k, v in one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.conv, self.block = nn.Linear(6, 8), nn.Conv2d(8, 5, 3, padding=1), TransformerBlock(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(self.first(x))  # (B, 4, 8)
        return self.conv(y.mT.unflatten(2, (2, 2)))  # (B, 5, 2, 2)


X = rand(3, 4, 6, seed=9)


def change(module: str, rows: int, inner: tuple[int, ...], rank: int = 2, seed: int = 1, **more: Any) -> Change:
    return Change(module, rand(rank, *inner, seed=seed), rand(rows, rank, seed=seed + 100), **more)


def test_the_output_is_that_of_the_low_rank_branch_beside_each_layer() -> None:
    model = Small()
    first, conv = change("first", 8, (6,), alpha=torch.tensor(4.0)), change("conv", 5, (8, 3, 3), rank=3, seed=2)
    plain = model(X)
    with wear(model, [(Lora((first, conv)), 0.7)]):
        found = model(X)
    y = model.first(X) + 0.7 * 2.0 * (X @ first.down.T) @ first.up.T
    y = model.block(y).mT.unflatten(2, (2, 2))
    low = nn.functional.conv2d(y, conv.down, padding=1)
    expected = model.conv(y) + 0.7 * nn.functional.conv2d(low, conv.up[:, :, None, None])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (found - plain).abs().max() > 0.1
    assert torch.equal(model(X), plain)


def test_a_share_of_fused_rows_is_changed_alone() -> None:
    model = Small()
    own = model.block.qkv.weight.detach().clone()
    q, v = change("block.qkv", 8, (8,), parts=3), change("block.qkv", 8, (8,), seed=3, parts=3, part=2)
    with wear(model, [(Lora((q,)), 1.0), (Lora((v,)), -0.5)]):
        rows = model.block.qkv.weight.chunk(3)
    for found, base, delta in zip(rows, own.chunk(3), (q.up @ q.down, torch.zeros(8, 8), -0.5 * v.up @ v.down), strict=True):
        torch.testing.assert_close(found, base + delta, atol=1e-5, rtol=0)


def test_a_stack_is_the_sum_with_its_weights_and_weights_by_part() -> None:
    model = Small()
    a, b = change("first", 8, (6,)), change("first", 8, (6,), rank=4, seed=5, alpha=torch.tensor(1.0))
    far = change("block.out", 8, (8,))
    own = model.first.weight.detach().clone()
    with wear(model, [(Lora((a, far)), {"first": 0.25}), (Lora((b,)), 2.0)]) as worn:
        torch.testing.assert_close(model.first.weight, own + 0.25 * a.up @ a.down + 2 / 4 * b.up @ b.down, atol=1e-5, rtol=0)
    assert worn.names == ("first",)  # no part names block.out: its weight is 0 and it is not touched


def test_every_reader_of_a_weight_hears_it() -> None:
    """Layers here fold or reassociate their weights instead of calling their module: a hook on its output would be silent there."""
    up = Nearest(2, 3, 4)
    assert isinstance(up.conv, nn.Conv2d)
    x = rand(2, 3, 4, 4, seed=4)
    one = change("conv", 4, (3, 3, 3))
    with wear(up, [(Lora((one,)), 1.0)]):
        found = up(x)
    doubled = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    weight = up.conv.weight + (one.up @ one.down.flatten(1)).view(4, 3, 3, 3)
    torch.testing.assert_close(found, nn.functional.conv2d(doubled, weight, up.conv.bias, padding=1), atol=1e-5, rtol=1e-5)

    linear = LinearAttentionSpec(heads=2, head_width=4).make(8, GroupNormSpec(groups=2))
    assert linear is not None
    x = rand(2, 8, 4, 4, seed=5)
    before = linear(x)
    for name, rows, inner in (("q", 8, 8), ("k", 8, 8), ("v", 8, 8), ("out", 8, 8)):
        with wear(linear, [(Lora((change(name, rows, (inner,)),)), 1.0)]):
            assert (linear(x) - before).abs().max() > 1e-3, name


def test_peft_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    peft = pytest.importorskip("peft")
    model = Small().eval()
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["first", "conv", "out", "up"],
        rank_pattern={"first": 2},
        alpha_pattern={"conv": 3},
        init_lora_weights=False,
    )
    theirs = peft.get_peft_model(Small().eval(), config)
    state = {k.removeprefix("base_model.model."): v for k, v in theirs.state_dict().items() if "lora_" in k}
    changes = []
    for name in ("first", "conv", "block.out", "block.feed.up"):
        down, up = state[f"{name}.lora_A.default.weight"], state[f"{name}.lora_B.default.weight"]
        changes.append(Change(name, down, up, torch.tensor(3.0 if name == "conv" else 6.0)))
    with torch.no_grad(), wear(model, [(Lora(tuple(changes)), 1.0)]):
        torch.testing.assert_close(model(X), theirs(X), atol=1e-5, rtol=1e-5)


def test_peft_gives_the_same_for_dora() -> None:
    peft = pytest.importorskip("peft")
    model = Small().eval()
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["first", "conv"], use_dora=True, init_lora_weights=False)
    theirs = peft.get_peft_model(Small().eval(), config)
    for name, value in theirs.named_parameters():
        if "magnitude" in name:
            value.data.mul_(1.5)
    state = {k.removeprefix("base_model.model."): v for k, v in theirs.state_dict().items() if "lora_" in k}
    changes = [
        Change(
            name,
            state[f"{name}.lora_A.default.weight"],
            state[f"{name}.lora_B.default.weight"],
            torch.tensor(6.0),
            magnitude=state[f"{name}.lora_magnitude_vector.default.weight"].flatten(),
        )
        for name in ("first", "conv")
    ]
    plain = model(X)
    with torch.no_grad(), wear(model, [(Lora(tuple(changes)), 1.0)]):
        torch.testing.assert_close(model(X), theirs(X), atol=1e-5, rtol=1e-5)
        assert (model(X) - plain).abs().max() > 0.1


def test_a_middle_convolution_stands_between_two_maps() -> None:
    model = Small()
    one = change("conv", 5, (8, 1, 1))._replace(mid=rand(2, 2, 3, 3, seed=7))
    own = model.conv.weight.detach().clone()
    x = rand(1, 8, 4, 4, seed=8)
    with wear(model, [(Lora((one,)), 1.0)]):
        delta = model.conv.weight - own
    low = nn.functional.conv2d(x, one.down)
    low = nn.functional.conv2d(low, one.mid, padding=1)  # type: ignore[arg-type]
    expected = nn.functional.conv2d(low, one.up[:, :, None, None])
    torch.testing.assert_close(nn.functional.conv2d(x, delta, padding=1), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_taking_it_off_leaves_the_base_to_the_last_bit(dtype: torch.dtype) -> None:
    model = Small().to(dtype)
    before = {name: (value, value.clone()) for name, value in model.state_dict().items()}
    worn = wear(model, [(Lora((change("first", 8, (6,)), change("conv", 5, (8, 3, 3)))), 0.9)])
    for _ in range(3):
        with worn:
            assert model.first.weight.dtype == dtype
            assert not torch.equal(model.first.weight, before["first.weight"][1])
            inside = model.state_dict()  # what a file of it would hold is the base, also now
            assert all(torch.equal(inside[name], value) for name, (_, value) in before.items())
        after = model.state_dict()
        assert all(torch.equal(after[n], v) and after[n].data_ptr() == same.data_ptr() for n, (same, v) in before.items())
    assert all("weight" not in m.__dict__ for m in model.modules())


def test_merging_gives_the_worn_output_and_stays() -> None:
    model, x = Small(), X
    stack = [(Lora((change("first", 8, (6,)), change("block.qkv", 8, (8,), parts=3, part=1))), 0.6)]
    with wear(model, stack) as worn:
        expected = model(x)
    worn.merge()
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
    other = Small()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))
    assert model.first.weight.requires_grad


def test_it_can_be_entered_again_inside_and_no_second_one_beside_it() -> None:
    model = Small()
    worn, other = (wear(model, [(Lora((change("first", 8, (6,), seed=s),)), 1.0)]) for s in (1, 2))
    with worn:
        inside = model.first.weight
        with worn:
            assert model.first.weight is inside
        assert model.first.weight is inside
        with pytest.raises(SpecError, match="'first' wears another adapter already"), other:
            pass
        assert model.first.weight is inside
    assert isinstance(model.first.weight, nn.Parameter)


def test_an_error_inside_takes_it_off_and_nothing_is_held() -> None:
    model = Small()
    with pytest.raises(RuntimeError), wear(model, [(Lora((change("first", 8, (6,)),)), 1.0)]):
        raise RuntimeError
    assert isinstance(model.first.weight, nn.Parameter)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    "wrong, says",
    [
        (change("frist", 8, (6,)), "at 'frist': the model has no such layer; did you mean 'first'"),
        (change("first", 8, (7,)), "at 'first': a change of 8x7, where the layer has 8x6"),
        (change("block.qkv", 12, (8,), parts=3), r"at 'block.qkv\[1/3\]': a change of 12x8, where the layer has 8x8"),
        (change("block.norm1", 8, (1,)), "a LayerNorm takes no low-rank change"),
        (change("first", 8, (6,))._replace(up=rand(8, 3)), "down has rank 2, up 3"),
        (change("first", 8, (6,))._replace(magnitude=rand(6)), "a magnitude of"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(wrong: Change, says: str) -> None:
    with pytest.raises(SpecError, match=says) as caught:
        wear(Small(), [(Lora((wrong,), "style"), 1.0)])
    assert "adapter 'style'" in str(caught.value) and "\n" not in str(caught.value)


def test_weights_that_are_no_numbers_are_told_before_a_picture_is_made() -> None:
    one = change("first", 8, (6,))
    with pytest.raises(SpecError, match="with the adapters 'nan' the weight of 'first' is not finite in float32"):
        wear(Small(), [(Lora((one._replace(up=one.up * torch.nan),), "nan"), 1.0)])
    with pytest.raises(SpecError, match="is not finite in float16"):
        wear(Small().half(), [(Lora((one,), "loud"), 1e6)])


def test_a_pointwise_layer_and_channels_last_weights() -> None:
    model = nn.Sequential(Pointwise(6, 4), nn.Conv2d(4, 4, 3, padding=1))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    one, two = change("0", 4, (6,)), change("1", 4, (4, 3, 3))
    own = [model.state_dict()[f"{i}.weight"].clone() for i in (0, 1)]
    with wear(model, [(Lora((one, two)), 1.0)]):
        torch.testing.assert_close(model[0].weight, own[0] + one.up @ one.down, atol=1e-5, rtol=0)
        expected = own[1] + (two.up @ two.down.flatten(1)).reshape(own[1].shape)
        torch.testing.assert_close(model[1].weight, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "tag, weight, text",
    [("a", 1, None), ("a:.8", 0.8, None), ("a:0.5:0.8", 0.8, 0.5), ("a:te=.5:unet=-1", -1, 0.5), ("a:1:1", 1, None), ("a:unet=0", 0, 1)],
)  # fmt: skip
def test_tags_of_a1111_are_taken_out_of_a_prompt(tag: str, weight: float, text: float | None) -> None:
    assert tagged(f"a cat <lora:{tag}>, red") == ("a cat, red", [LoraUse(name="a", weight=weight, text=text)])


def test_a_prompt_without_tags_is_left_alone_and_a_wrong_one_is_one_line() -> None:
    assert tagged(" a <b> (c:1.2) ") == (" a <b> (c:1.2) ", [])
    assert [use.name for use in tagged("<lora:a:1> x <lora:b:2>")[1]] == ["a", "b"]
    for wrong in ("<lora:a:much>", "<lora:a:te=much>", "<lora:a:99>", "<lora:a:nan>"):
        with pytest.raises(SpecError, match="a weight is a number from -10 to 10"):
            tagged(wrong)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_weight_that_is_laid_together_when_it_is_looked_at(dtype: torch.dtype) -> None:
    """q, k and v of a published file, see nn/joined.py."""
    parts = [rand(8, 8, seed=i).to(dtype) for i in range(3)]
    model = Small().to(dtype)
    model.block.qkv.weight = nn.Parameter(joined(parts))
    one = change("block.qkv", 8, (8,), parts=3, part=1)
    with wear(model, [(Lora((one,)), 1.0)]):
        found = model.block.qkv.weight
    assert type(found) is Tensor and found.dtype == dtype
    expected = torch.cat((parts[0], (parts[1].float() + one.up @ one.down).to(dtype), parts[2]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)
    assert torch.equal(model.block.qkv.weight, torch.cat(parts))


def test_a_use_is_described() -> None:
    assert LoraUse(name="a", weight=0.5).text is None
    with pytest.raises(ValueError, match="at least 1 character"):
        LoraUse(name="")
