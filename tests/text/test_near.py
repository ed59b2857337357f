"""What is near: embeddings are made once, whoever asks; vectors and states of many texts are those of each alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from safelight.text.clip import CLIPText, CLIPTextSpec
from safelight.text.near import CHUNK, Memory, lexicon


class Counted:
    """Embeds a text as its length and its first letter, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> Tensor:
        self.asked += texts
        return torch.tensor([[len(t), ord(t[0])] for t in texts], dtype=torch.float32).view(-1, 2)


def test_every_text_is_embedded_once_and_answered_in_its_order() -> None:
    counted, memory = Counted(), Memory()
    read = memory.reader("v", counted)
    assert read(["ccc", "a", "bb", "a"]).tolist() == [[3, 99], [1, 97], [2, 98], [1, 97]]
    assert read(["bb", "dddd", "a"]).tolist() == [[2, 98], [4, 100], [1, 97]]
    assert sorted(counted.asked) == ["a", "bb", "ccc", "dddd"] and len(memory) == 4
    assert memory.reader("other", counted)(["a"]).tolist() == [[1, 97]] and len(memory) == 5
    assert read([]).shape == (0, 2)


def test_it_forgets_when_it_is_full_and_answers_all_the_same() -> None:
    counted, memory = Counted(), Memory(most=3)
    read = memory.reader("v", counted)
    for texts in (["a", "bb"], ["ccc", "dddd"], ["a", "bb", "ccc", "dddd", "eeeee"]):
        assert read(texts)[:, 0].tolist() == [float(len(t)) for t in texts]
        assert len(memory) <= max(3, len(texts))


def test_what_a_check_ends_is_not_lost() -> None:
    counted, memory, left = Counted(), Memory(), [2]

    def check() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise InterruptedError

    texts = [f"{i:05}" for i in range(5 * CHUNK)]
    with pytest.raises(InterruptedError):
        memory.reader("v", counted, check)(texts)
    assert len(memory) == len(counted.asked) == 2 * CHUNK
    assert memory.reader("v", counted)(texts)[:, 0].tolist() == [5.0] * len(texts)
    assert len(counted.asked) == len(texts)


def test_threads_share_it() -> None:
    counted, memory, wrong = Counted(), Memory(most=500), list[str]()

    def ask(seed: int) -> None:
        for k in range(60):
            texts = [f"{'x' * (1 + (seed * 7 + k * 3 + i) % 40)}" for i in range(20)]
            found = memory.reader("v", counted)(texts)[:, 0].tolist()
            if found != [float(len(t)) for t in texts]:
                wrong.append(str(k))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(memory) == 40


@pytest.mark.parametrize("causal", [True, False])
def test_many_texts_are_read_as_each_alone(causal: bool) -> None:
    torch.manual_seed(0)
    encoder = CLIPText(CLIPTextSpec(width=16, layers=2, heads=2, length=8, causal=causal, projection=12)).eval()
    texts = ["a cat", "", "one two three four five six", "a", "a dog on a blue background"]
    long = [*texts, "one two three four five six seven eight nine ten"]
    for some in (texts, long):
        with torch.no_grad():
            each = [encoder.read([t]) for t in some]
        torch.testing.assert_close(encoder.vectors(some, 2), torch.cat([c.vector for c in each if c.vector is not None]))
    states = [c.tokens[0, 1 : int(c.mask.sum()) - 1] for c in each[:-1] if c.tokens is not None and c.mask is not None]
    found = encoder.states(texts, 2)
    for k, state in enumerate(states):
        if len(state):
            torch.testing.assert_close(found[k], state.mean(0))
    assert encoder.vectors([]).shape == (0, 12)


def test_a_models_own_words_come_before_its_tokenizers() -> None:
    encoder = CLIPText(CLIPTextSpec(width=16, layers=1, heads=2))
    encoder.lineage = {"vocabulary": ["a red apple", "on a star"]}  # type: ignore[assignment]
    assert lexicon(encoder, encoder.tokenizer) == ["a", "apple", "on", "red", "star"]
    encoder.lineage = {}  # type: ignore[assignment]
    every = lexicon(encoder, encoder.tokenizer)
    assert "umbrella" in every and len(every) > 3000 and all(w.isascii() and w.isalpha() for w in every)
