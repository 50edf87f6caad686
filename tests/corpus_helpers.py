"""What the tests of documents share."""

from outdim.corpus import Accounting, Corpus


def read(corpus: Corpus) -> list[str]:
    return [text for unit in corpus.units for text in corpus.read(unit, Accounting())]


def account(corpus: Corpus) -> Accounting:
    total = Accounting()
    for unit in corpus.units:
        part = Accounting()
        for _ in corpus.blocks(unit, part):
            pass
        total = total + part
    return total
