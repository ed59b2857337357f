"""evaluate: how good are the pictures? Every number says how it was got, and stands beside what real pictures get.

classifier.py  the eye: a small classifier, its features pinned by hash      fit.py  its training
frechet.py     distance of Gaussians       kernel.py   unbiased MMD^2 with an interval
manifold.py    precision, recall, density, coverage
likelihood.py  bits of real pictures: the variational bound term by term, and the probability-flow ODE
copies.py      nearness to training pictures, calibrated on held-out ones
real.py, made.py   the two sides: real pictures, and generated ones with how they were made
report.py      all of it at once, as JSON  card.py     the same as Markdown

On sprite scenes, whose truth is known:
scene_classifier.py  the judge: which concept is in this box?       adherence.py  does a model show what it is asked for?
designs.py     copies of training sprites, over place, size, ground  show.py       the pictures of a report
rebuilt.py     codecs on concepts they never saw                     retrieval.py  pictures and words finding each other
"""

from __future__ import annotations

from safelight.evaluate.card import card
from safelight.evaluate.classifier import Classifier, ClassifierSpec
from safelight.evaluate.frechet import frechet
from safelight.evaluate.kernel import kernel
from safelight.evaluate.made import Made, folder, make
from safelight.evaluate.manifold import manifold
from safelight.evaluate.real import Labelled, read
from safelight.evaluate.report import Report, evaluate

__all__ = [
    "Classifier",
    "ClassifierSpec",
    "Labelled",
    "Made",
    "Report",
    "card",
    "evaluate",
    "folder",
    "frechet",
    "kernel",
    "make",
    "manifold",
    "read",
]
