"""Merging the moments of disjoint sets of rows, in float64 and in the order given."""

import torch

from outdim.ops._binding import core
from outdim.ops._reference import merge as reference
from outdim.ops._reference.merge import State
from outdim.ops.layout import covariates_of


def merge_states(a: State, b: State, shape: bool) -> State:
    """Merge the states of rows `a` with those of the rows `b` after them.

    Args:
        a: Head [1 + 2 K] and body [R, D], or of G groups, [G, 1 + 2 K] and [G, R, D].
        b: Likewise.
        shape: Whether the bodies have shape rows.

    Returns:
        head and body in memory of their own, where those of `a` are. A state of no rows leaves the
        bytes of the other. States on a device are merged on the host, which waits for them.

    Sources: Chan, Golub and LeVeque, "Algorithms for computing the sample variance" (1983), for
    means and second moments; Pebay, "Formulas for robust, one-pass parallel computation of
    covariances and arbitrary-order statistical moments" (Sandia SAND2008-6212, 2008), for
    co-moments, M3 and M4.
    """
    module = core()
    if module is None:
        return reference.merge_states(a, b, shape)
    head_a, body_a, head_b, body_b = (tensor.cpu().contiguous() for tensor in (*a, *b))
    head, body = torch.empty_like(head_a), torch.empty_like(body_a)
    module.merge_moments(
        head.numel() // head.shape[-1],
        covariates_of(head.shape[-1]),
        shape,
        body.shape[-1],
        head_a.data_ptr(),
        body_a.data_ptr(),
        head_b.data_ptr(),
        body_b.data_ptr(),
        head.data_ptr(),
        body.data_ptr(),
    )
    device = a[0].device
    return head.to(device), body.to(device)
