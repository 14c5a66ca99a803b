"""A run under way: all that it goes on from, and all that a checkpoint of it holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from lora_cl.methods import Method
from lora_cl.running.ledger import Ledger
from lora_cl.training import loop
from lora_cl.training.optimizers import Optimizer, State


@dataclass
class Place:
    """How far a run has come: the task, and the fit of it that is under way, -1 between fits.

    ``trained`` is the most parameters that a fit of this task has trained so far.
    """

    task: int = 0
    fit: int = -1
    trained: int = 0


@dataclass
class FitUnderWay:
    """One call of the training loop.

    ``without_prefix`` says whether the network's frozen beginning was computed beforehand; None
    until that is decided.
    """

    optimizer: Optimizer
    progress: loop.Progress = field(default_factory=loop.Progress)
    without_prefix: bool | None = None


@dataclass
class OptimizerMemory:
    """What `optimizer_state: keep` hands from one fit to the next, by the name of a parameter.

    ``owners`` are the parameters that the states were made with: a new one of the same name, such
    as the next task's adapter, starts afresh.
    """

    states: dict[str, State] = field(default_factory=dict)
    owners: dict[str, nn.Parameter] = field(default_factory=dict)

    def remember(self, network: nn.Module, optimizer: Optimizer) -> None:
        """Takes over the states of ``optimizer``; those of parameters that are gone are dropped."""
        known, self.states, self.owners = self.kept(network), {}, {}
        for name, parameter in network.named_parameters():
            state = optimizer.state.get(parameter) or known.get(name)
            if state:
                self.states[name], self.owners[name] = state, parameter

    def recall(self, network: nn.Module, optimizer: Optimizer) -> None:
        """Gives ``optimizer`` a copy of what was kept of the parameters that train."""
        kept = self.kept(network)
        for name, parameter in network.named_parameters():
            if parameter.requires_grad and name in kept:
                optimizer.state[parameter] = {k: v.clone() for k, v in kept[name].items()}

    def kept(self, network: nn.Module) -> dict[str, State]:
        """The states whose parameters are still there."""
        there = dict(network.named_parameters())
        return {name: s for name, s in self.states.items() if there.get(name) is self.owners[name]}

    def restore(self, network: nn.Module, tensors: dict[str, Tensor]) -> None:
        """From ``tensors()``; the parameters are those that ``network`` has now."""
        there = dict(network.named_parameters())
        for key, tensor in tensors.items():
            name, _, part = key.partition("::")
            self.states.setdefault(name, {})[part] = tensor.to(there[name].device)
            self.owners[name] = there[name]

    def tensors(self, network: nn.Module) -> dict[str, Tensor]:
        kept = self.kept(network)
        return {f"{name}::{part}": t for name, state in kept.items() for part, t in state.items()}


@dataclass
class RunState:
    """The method with all it learned, what was measured, and where the run stands."""

    method: Method
    ledger: Ledger = field(default_factory=Ledger)
    place: Place = field(default_factory=Place)
    memory: OptimizerMemory = field(default_factory=OptimizerMemory)
    fit: FitUnderWay | None = None
