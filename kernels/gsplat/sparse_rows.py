"""Gradients of a few rows: what gsplat's `sparse_grad` gives to optimisers such as torch.optim.SparseAdam."""

from typing import Any

import torch
from torch import Tensor


class SparseRows:
    """Marks tensors [n, ...] whose gradients are to be sparse: of the rows `ids`, which are known only later."""

    ids: Tensor  # [nnz] int64, may repeat

    def __call__(self, tensor: Tensor) -> Tensor:
        """The same numbers; what comes back through them is a COO tensor with one sparse dimension."""
        return _SparseGradient.apply(tensor, self)


class _SparseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, rows: SparseRows) -> Tensor:  # type: ignore[override]
        ctx.rows = rows
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        ids = ctx.rows.ids.unique()
        # What is said by this manager and not by an argument no torch warns of; that the rows are sound is known.
        with torch.sparse.check_sparse_tensor_invariants(enable=False):
            return torch.sparse_coo_tensor(ids[None], gradient[ids], gradient.shape, is_coalesced=True), None
