"""Registration of the ops with torch.library: schema, implementation, fake."""

from collections.abc import Callable
from typing import Any

import torch

# Library.define and impl rather than custom_op: half of the overhead of a call.
_LIBRARY = torch.library.Library("outdim", "FRAGMENT")  # type: ignore[no-untyped-call]


def register(schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Define outdim::<schema> with one implementation for every device and a fake for tracing."""
    name = schema.split("(")[0]
    library: Any = _LIBRARY
    library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"outdim::{name}", fake, lib=_LIBRARY)


def register_gradient(
    name: str, setup_context: Callable[..., None], backward: Callable[..., Any]
) -> None:
    """Give outdim::<name> a gradient."""
    torch.library.register_autograd(
        f"outdim::{name}", backward, setup_context=setup_context, lib=_LIBRARY
    )
