"""The space that a layer's inputs span, remembered over tasks (GPM, DualGPM), for InfLoRA.

H (d, n) holds the n inputs of a layer as columns; of a convolution, its d = c_in kh kw patches.
The energy of the inputs in a direction u is u^T G u, and all of it is the trace of G. In the paper
G is H H^T and the energy |u^T H|^2. The authors' code decomposes H H^T in the place of H: there G
is (H H^T)^2, the energy is |u^T H H^T|^2, and the largest directions hold far more of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_cl.adapters import AdaptedLayer, adapted_layers
from lora_cl.data.streaming import Inputs, parts
from lora_cl.models import SameConv2d

Energy = Literal["code", "paper"]

CHUNK = 512
NOTHING = 1e-12
"""The share of the energy below which a direction is rounding, not input."""


@dataclass(frozen=True)
class InputSpace:
    """A subspace of R^d: what the orthonormal columns of ``basis`` (d, k) span, or, if ``free``,
    what they leave free. DualGPM keeps whichever is the smaller basis, so k <= d / 2."""

    basis: Tensor
    free: bool = False

    @property
    def dimension(self) -> int:
        d, k = self.basis.shape
        return d - k if self.free else k


def input_energies(backbone: nn.Module, x: Inputs, energy: Energy) -> dict[str, Tensor]:
    """Layer name to G (d, d), for the inputs that x (N, *input) gives an adapted layer."""
    found = input_covariances(backbone, x)
    return found if energy == "paper" else {layer: C @ C for layer, C in found.items()}


@torch.no_grad()
def input_covariances(backbone: nn.Module, x: Inputs) -> dict[str, Tensor]:
    """Layer name to H H^T (d, d), H the inputs that x (N, *input) gives an adapted layer.

    In float64, where the device has it.
    """
    sums: dict[str, Tensor] = {}

    def add(name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = _rows(cast(AdaptedLayer, layer).base, inputs[0])
        rows = rows if rows.device.type == "mps" else rows.double()
        product = rows.T @ rows
        sums[name] = sums[name].add_(product) if name in sums else product

    layers = adapted_layers(backbone)
    handles = [m.register_forward_pre_hook(partial(add, name)) for name, m in layers.items()]
    try:
        backbone.eval()
        for part in parts(x, CHUNK):
            backbone(part)
    finally:
        for handle in handles:
            handle.remove()
    return sums


def _rows(base: nn.Module, x: Tensor) -> Tensor:
    """The inputs that the weight's rows are multiplied with, (n, d)."""
    if not isinstance(base, nn.Conv2d):
        return x.reshape(-1, x.shape[-1])
    if isinstance(base, SameConv2d):
        padded = base.padded(x)
    else:
        mode = "constant" if base.padding_mode == "zeros" else base.padding_mode
        padded = F.pad(x, base._reversed_padding_repeated_twice, mode=mode)
    size, dilation, stride = base.kernel_size, base.dilation, base.stride
    patches = F.unfold(padded, cast(int, size), cast(int, dilation), 0, cast(int, stride))
    return patches.transpose(1, 2).reshape(-1, patches.shape[1])


def threshold(epsilon: float, task: int, n_tasks: int) -> float:
    """The share of the energy to remember after ``task``, from 0: epsilon + (1 - epsilon) t / T.

    Later tasks are left less freedom (Liang & Li 2024, the authors' schedule of DualGPM).
    """
    return epsilon + (1.0 - epsilon) * task / n_tasks


def free_directions(G: Tensor, space: InputSpace | None) -> tuple[Tensor, Tensor]:
    """The principal directions outside ``space`` by energy: (m,) falling, and columns (d, m).

    These are the squared singular values and the left singular vectors of H - M M^T H, with M a
    basis of the space, or of M' M'^T H, with M' a basis of what it leaves free (Liang & Li 2024,
    section 3.3); in the authors' code, H H^T stands for H. On the CPU, in float64.
    """
    G = G.double().cpu()
    if space is None:
        energies, directions = torch.linalg.eigh(G)
    elif space.free:
        free = space.basis.double().cpu()
        energies, inside = torch.linalg.eigh(free.T @ G @ free)
        directions = free @ inside
    else:
        basis = space.basis.double().cpu()
        projected = G - basis @ (basis.T @ G)
        projected = projected - (projected @ basis) @ basis.T
        energies, directions = torch.linalg.eigh((projected + projected.T) / 2)
        # Once more, since eigenvectors of small energies are only as exact as the largest one.
        directions = directions - basis @ (basis.T @ directions)
        directions = directions / directions.norm(dim=0).clamp_min(1e-6)
    return energies.clamp_min(0).flip(0), directions.flip(1)


def branch_rows(G: Tensor, space: InputSpace | None, rank: int) -> Tensor:
    """A_t (rank, d): the ``rank`` directions outside ``space`` with the most energy, as rows.

    (Liang & Li 2024, section 3.3.) Where fewer directions are left, the last rows are zero.
    """
    energies, directions = free_directions(G, space)
    useful = int((energies[:rank] > NOTHING * G.trace().cpu()).sum())
    A = G.new_zeros(rank, len(G), dtype=torch.float32)
    A[:useful] = directions[:, :useful].T.to(A)
    return A


def remember(G: Tensor, space: InputSpace | None, share: float) -> InputSpace:
    """``space`` and the fewest directions that make it hold ``share`` of the energy.

    (Saha et al. 2021, arXiv 2103.09762, equations 5 and 9; the dual form of Liang & Li 2023.)
    """
    energies, directions = free_directions(G, space)
    total = float(G.trace())
    outside = energies.flip(0).cumsum(0).flip(0)
    new = int((outside > (1.0 - share + NOTHING) * total).sum())
    if space is not None and space.free:
        basis, free = directions[:, new:], True
    else:
        basis, free = directions[:, :new], False
        if space is not None:
            basis = torch.cat([space.basis.double().cpu(), basis], dim=1)
        if 2 * basis.shape[1] > basis.shape[0]:
            basis, free = torch.linalg.qr(basis, mode="complete").Q[:, basis.shape[1] :], True
    return InputSpace(basis.to(G.device, torch.float32).contiguous(), free)
