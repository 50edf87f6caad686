"""Documents: where text comes from, cut into units that are read in any order."""

from outdim.corpus.corpus import Corpus, open_corpus
from outdim.corpus.texts import Accounting, Texts
from outdim.corpus.unit import Unit

__all__ = [
    "Accounting",
    "Corpus",
    "Texts",
    "Unit",
    "open_corpus",
]
