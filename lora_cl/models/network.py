"""A backbone with heads, and the network as a task sees it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lora_cl.errors import MethodError


@contextmanager
def _seeded(seed: int) -> Any:
    """Draws from torch's global generator inside are those of ``seed``; outside nothing moved."""
    with torch.random.fork_rng(devices=[]):
        seed_global_stream(seed, torch.device("cpu"))
        yield


def seed_global_stream(seed: int, device: torch.device) -> None:
    """Seeds torch's global generator, and those of accelerators if ``device`` is one.

    Where they are not used, ``torch.manual_seed`` notes for each the stack that it was called from:
    ten times the time of all the rest.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def seeded(seed: int) -> AbstractContextManager[None]:
    """Layers made inside are initialised from ``seed`` and move no other random stream."""
    return _seeded(seed)


class Network(nn.Module):
    """A backbone (N, *input) -> (N, features), and heads by name, (N, features) -> logits."""

    def __init__(self, backbone: nn.Module, features: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.features = features
        self.heads = nn.ModuleDict()

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device

    def add_head(self, name: str, outputs: int, seed: int, features: int | None = None) -> None:
        """A fresh linear head, initialised from ``seed``; one that is there already stays.

        It takes ``features`` inputs, by default what the backbone gives.
        """
        if name not in self.heads:
            with seeded(seed):
                self.heads[name] = nn.Linear(features or self.features, outputs)
            self.heads[name].to(self.device)


class TaskNetwork(nn.Module):
    """The network as one task, or several together, see it.

    Its ``state_dict`` holds exactly the tensors that its output depends on. ``offsets`` says,
    per task, what is added to the task's own labels (from 0) to name an output. With several
    heads the outputs stand side by side, and ``same_task`` (outputs, outputs) holds 0 where two
    outputs belong to one task and minus infinity elsewhere. ``outputs`` cuts a shared head to
    the outputs in use, such as the classes seen so far.
    """

    same_task: Tensor | None

    def __init__(
        self,
        backbone: nn.Module,
        heads: Sequence[nn.Module],
        offsets: Mapping[int, int],
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList(heads)
        self.offsets = dict(offsets)
        self.outputs = outputs
        mask = None
        if len(heads) > 1:
            sizes = torch.tensor([head.out_features for head in heads])
            owner = torch.repeat_interleave(torch.arange(len(heads)), sizes)
            mask = torch.zeros(len(owner), len(owner)).masked_fill_(
                owner[:, None] != owner[None, :], float("-inf")
            )
            mask = mask.to(next(heads[0].parameters()).device)
        self.register_buffer("same_task", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, *input) -> logits (N, outputs)."""
        return self.logits(self.backbone(x))

    def logits(self, features: Tensor) -> Tensor:
        """(N, features) -> logits (N, outputs)."""
        if len(self.heads) == 1:
            logits: Tensor = self.heads[0](features)
        else:
            logits = torch.cat([head(features) for head in self.heads], dim=1)
        return logits if self.outputs is None else logits[:, : self.outputs]


class _ClosedNetwork(TaskNetwork):
    """A network whose time is over: it says so, and answers nothing."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise MethodError(
            "this network was a view, and its `with` has ended: what it showed belongs to other "
            "tasks by now; use it inside `with method.view(task) as network:`"
        )

    forward = logits = _apply = _refuse
    state_dict = load_state_dict = named_parameters = named_buffers = _refuse

    def __getattr__(self, name: str) -> Any:
        return self._refuse() if name in ("backbone", "heads") else super().__getattr__(name)


def close(network: TaskNetwork) -> None:
    """Ends the time in which ``network`` may be used; costs those nothing that are open."""
    network.__class__ = _ClosedNetwork


def training_mode(network: nn.Module) -> None:
    """Puts what trains in training mode and what is frozen in eval mode.

    A module with parameters of its own follows them; one without (dropout) follows the nearest
    module around it that has some. Batch-norm statistics of a frozen layer therefore stay.
    """

    def visit(module: nn.Module, around: bool) -> None:
        own = list(module.parameters(recurse=False))
        inside = list(module.parameters())
        if own:
            trains = any(parameter.requires_grad for parameter in own)
        elif inside:
            trains = any(parameter.requires_grad for parameter in inside)
        else:
            trains = around
        module.training = trains
        for child in module.children():
            visit(child, trains)

    visit(network, False)


def trainable_only(network: nn.Module, modules: Iterable[nn.Module]) -> None:
    """Freezes ``network`` but for ``modules``: by identity of modules, never by name."""
    for parameter in network.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    for module in modules:
        for parameter in module.parameters():
            parameter.requires_grad_(True)


def content_hash(tensor: Tensor) -> bytes:
    """A 16-byte hash of a tensor's dtype, shape and bytes."""
    digest = hashlib.blake2b(f"{tensor.dtype}{tuple(tensor.shape)}".encode(), digest_size=16)
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()


def known_hashes(network: nn.Module) -> dict[tuple[int, int], bytes]:
    """The content hash of every tensor of ``network``, by its address and version.

    Valid as long as ``network`` lives and nothing trains; spares ``fingerprint`` the shared
    tensors of many views.
    """
    tensors = network.state_dict(keep_vars=True).values()
    return {(tensor.data_ptr(), tensor._version): content_hash(tensor) for tensor in tensors}


def fingerprint(network: nn.Module, known: Mapping[tuple[int, int], bytes]) -> str:
    """A hash of every tensor that ``network`` uses, and of how many of its outputs count.

    ``known`` comes from ``known_hashes`` of a network that is still alive, or is empty.
    """
    digest = hashlib.blake2b(repr(getattr(network, "outputs", None)).encode(), digest_size=16)
    for name, tensor in network.state_dict(keep_vars=True).items():
        tensor_hash = known.get((tensor.data_ptr(), tensor._version)) or content_hash(tensor)
        digest.update(name.encode() + b"\0" + tensor_hash)
    return digest.hexdigest()
