"""The emulator's tensor cores alone, against a plain matrix product."""

import ctypes

import pytest
import torch

pytestmark = pytest.mark.slow

WORDS, MATRICES, QUARTERS_OF_A, HALVES_OF_B, BEFORE_THE_COPY = range(5)


def product(library, a, b, c, load):
    """C + A B by one warp, the fragments loaded as `load` says."""
    columns, total = b.mT.contiguous(), c.clone()
    library.emulator_multiply(
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (a, columns, total)),
        int(a.dtype == torch.bfloat16),
        load,
    )
    return total


@pytest.fixture(params=[torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def matrices(request):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(16, 16, generator=generator), torch.randn(16, 8, generator=generator)
    return a.to(request.param), b.to(request.param), torch.randn(16, 8, generator=generator)


@pytest.mark.parametrize("load", [WORDS, MATRICES], ids=["words", "ldmatrix"])
def test_product(emulated, order, matrices, load):
    a, b, c = matrices
    want = c.double() + a.double() @ b.double()
    found = product(emulated, a, b, c, load)
    # Exact products, one sum of 17 terms, cut off: a unit in the last place at most, towards 0.
    assert bool((found.double().abs() <= want.abs()).all())
    assert bool(((found.double() - want).abs() <= want.abs() * 2**-23).all())


@pytest.mark.parametrize("load", [QUARTERS_OF_A, HALVES_OF_B], ids=["a", "b"])
def test_fragments_in_the_wrong_place_show(emulated, order, matrices, load):
    a, b, c = matrices
    error = product(emulated, a, b, c, load).double() - (c.double() + a.double() @ b.double())
    assert float((error.abs() > 1e-2).double().mean()) > 0.9


def test_what_was_not_waited_for_is_not_there(emulated, order, matrices):
    assert bool(product(emulated, *matrices, BEFORE_THE_COPY).isnan().any())
