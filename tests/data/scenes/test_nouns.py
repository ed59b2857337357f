"""Captions read as English: a table written by hand, and rules over all 709 nouns."""

from __future__ import annotations

import re

import pytest

from safelight.data.scenes.nouns import article, indefinite, nouns, plural

GRAMMAR = [
    ("orange", "an orange", "oranges"),
    ("unicorn", "a unicorn", "unicorns"),
    ("umbrella", "an umbrella", "umbrellas"),
    ("euro banknote", "a euro banknote", "euro banknotes"),
    ("ewe", "a ewe", "ewes"),
    ("X-ray", "an X-ray", "X-rays"),
    ("UFO", "a UFO", "UFOs"),
    ("T-shirt", "a T-shirt", "T-shirts"),
    ("ice cube", "an ice cube", "ice cubes"),
    ("oncoming bus", "an oncoming bus", "oncoming buses"),
    ("tennis racket", "a tennis racket", "tennis rackets"),
    ("mouse", "a mouse", "mice"),
    ("computer mouse", "a computer mouse", "computer mice"),
    ("mouse trap", "a mouse trap", "mouse traps"),
    ("goose", "a goose", "geese"),
    ("sheep", "a sheep", "sheep"),
    ("tropical fish", "a tropical fish", "tropical fish"),
    ("jellyfish", "a jellyfish", "jellyfish"),
    ("water buffalo", "a water buffalo", "water buffaloes"),
    ("ox", "an ox", "oxen"),
    ("fox", "a fox", "foxes"),
    ("wolf", "a wolf", "wolves"),
    ("kitchen knife", "a kitchen knife", "kitchen knives"),
    ("fallen leaf", "a fallen leaf", "fallen leaves"),
    ("loaf of bread", "a loaf of bread", "loaves of bread"),
    ("pair of scissors", "a pair of scissors", "pairs of scissors"),
    ("bunch of grapes", "a bunch of grapes", "bunches of grapes"),
    ("page with bookmark tabs", "a page with bookmark tabs", "pages with bookmark tabs"),
    ("woman's hat", "a woman's hat", "women's hats"),
    ("man's shoe", "a man's shoe", "men's shoes"),
    ("snowman", "a snowman", "snowmen"),
    ("game die", "a game die", "game dice"),
    ("cactus", "a cactus", "cacti"),
    ("octopus", "an octopus", "octopuses"),
    ("petri dish", "a petri dish", "petri dishes"),
    ("church", "a church", "churches"),
    ("battery", "a battery", "batteries"),
    ("donkey", "a donkey", "donkeys"),
    ("toy", "a toy", "toys"),
    ("tomato", "a tomato", "tomatoes"),
    ("piñata", "a piñata", "piñatas"),
    ("yo-yo", "a yo-yo", "yo-yos"),
    ("fly", "a fly", "flies"),
    ("butterfly", "a butterfly", "butterflies"),
    ("lotus", "a lotus", "lotuses"),
    ("phoenix", "a phoenix", "phoenixes"),
    ("hourglass", "an hourglass", "hourglasses"),
    ("onion", "an onion", "onions"),
    ("one-way sign", "a one-way sign", "one-way signs"),
    ("Mount Fuji", "Mount Fuji", "Mount Fujis"),
]


@pytest.mark.parametrize(("phrase", "one", "many"), GRAMMAR)
def test_grammar(phrase: str, one: str, many: str) -> None:
    assert (indefinite(phrase), plural(phrase)) == (one, many)


def test_709_nouns_each_with_its_own_names() -> None:
    table = nouns()
    assert len(table) == 709
    names = [name for noun in table.values() for name in {noun.phrase, noun.alias}]
    assert len(names) == len(set(names))  # no name means two concepts


def test_the_names_that_need_care() -> None:
    table = nouns()
    assert table["tangerine"].phrase == "orange" and table["tangerine"].base == "tangerine"  # never "a blue orange"
    assert table["tennis"].phrase == "tennis racket"
    assert table["red apple"].base == table["green apple"].base == "apple"
    assert table["red apple"].colour == "red"
    assert not any(
        re.match(r"(small|tiny|big|large|two|three|four) ", noun.phrase) for noun in table.values()
    )  # reserved words
    assert not table["mount fuji"].countable
    assert not table["rainbow"].recolour


def test_articles_follow_the_sound() -> None:
    wrong = [n.phrase for n in nouns().values() if article(n.phrase) == "a" and n.phrase[0].lower() in "aeio"]
    assert wrong == ["euro banknote"]
    wrong = [n.phrase for n in nouns().values() if article(n.phrase) == "an" and n.phrase[0].lower() not in "aeiou"]
    assert wrong == ["X-ray"]
