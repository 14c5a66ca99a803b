"""The contract of a method: coarse script, fine hooks."""

from __future__ import annotations

import copy
from abc import ABC
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lora_cl.adapters import merged_parameter_count, parameter_count
from lora_cl.benchmarks import Benchmark, Task
from lora_cl.data.streaming import Inputs
from lora_cl.methods.bank import Bank
from lora_cl.methods.classifier import Statistics, is_trained, statistics
from lora_cl.methods.predicting import Prediction, predict
from lora_cl.methods.routing import BY_BASE, remember, route
from lora_cl.methods.viewing import guarded
from lora_cl.models import Network, TaskNetwork, close, fingerprint, trainable_only
from lora_cl.options import OptionsBase
from lora_cl.seeding import seed_for

ANSWERS = "answers"
"""The part of the network that holds classifiers of statistics, named as the heads are."""


@dataclass(frozen=True)
class Size:
    """An option that decides how large a method is: its dotted key, and its largest value in steps
    of ``step``, whole numbers if that is None."""

    key: str
    most: int = 65536
    step: float | None = None

    def value(self, number: int) -> int | float:
        """The value of ``number`` steps."""
        return number if self.step is None else number * self.step


class Fit(Protocol):
    """Trains what requires grad on the tasks' samples, shuffled together; the only training loop.

    It takes the steps that the config gives these tasks, or those between two shares of them:
    fits whose shares meet, such as PackNet's training and retraining, take them all together.
    """

    def __call__(self, tasks: Sequence[Task], *, start: float = 0.0, end: float = 1.0) -> None: ...


class Method(ABC):
    """Learns tasks one after another and shows the network as any learned task sees it.

    What is sealed with a task and never written again lives in ``bank``, by task (the runner's
    bank is the folder ``adapters/`` of the run, so that memory does not grow with the tasks).
    Everything else learned is in ``state_dict``: the network, and what ``kept`` holds by name.
    """

    Options: ClassVar[type[OptionsBase]]
    summary: ClassVar[str]
    private_heads: ClassVar[bool] = False
    """One head per task in every scenario: answering then takes the task id."""
    sealed_alone: ClassVar[bool] = False
    """A sealed task is answered by the network as it stands and its own part of the bank alone."""
    keeps_base: ClassVar[bool] = False
    """The base is part of the network for ever, so that a router needs no copy of it."""

    base: nn.Module

    network: Network
    benchmark: Benchmark
    bank: Bank

    reads: Callable[[Any], Tensor] = staticmethod(torch.as_tensor)
    """Makes of what people have the inputs of the network; ``load_run`` gives one that can more."""

    def __init_subclass__(cls, **words: Any) -> None:
        super().__init_subclass__(**words)
        if "view" in vars(cls):
            cls.view = guarded(cls.view)  # type: ignore[method-assign]

    @classmethod
    def sized_by(cls, options: Any) -> Size | None:
        """The option that a budget sets, if there is one."""
        return None

    @classmethod
    def trains(cls, options: Any) -> bool:
        """Whether anything is trained, so that how it is trained makes a difference."""
        return True

    def __init__(self, options: Any) -> None:
        self.options = options
        self.chosen: dict[str, Any] = {}
        """What the data decided of its options before the first task, for the record."""
        self.kept: dict[str, Tensor] = {}
        self.learned: list[int] = []

    def check(self, benchmark: Benchmark) -> None:
        """Refuses, with a ConfigError, a scenario or benchmark it has no meaning for."""

    def setup(self, network: Network, benchmark: Benchmark, seed: int, bank: Bank) -> None:
        """Takes the base network: freeze, inject. Runs once, before the first task."""
        self.network = network
        self.benchmark = benchmark
        self.seed = seed
        self.bank = bank
        if self.by_statistics:
            network.add_module(ANSWERS, nn.ModuleDict())
        if not self.per_task_heads:
            first = benchmark.task_classes(0)
            self._add_head(0, first if benchmark.scenario == "domain" else self._all_classes())
        if self.router in BY_BASE and not self.keeps_base:
            self.base = copy.deepcopy(network.backbone).requires_grad_(False)
        self.prepare()

    def prepare(self) -> None:
        """Freezes or injects into ``self.network``. Default: nothing."""

    @property
    def isolated(self) -> bool:
        """Promises that learning task k changes no bit of what tasks < k use."""
        return False

    @property
    def withheld(self) -> bool:
        """Whether answers take the task id although the scenario withholds it."""
        return self.private_heads and self.benchmark.scenario != "task"

    @property
    def router(self) -> str:
        """How a withheld task id is found: `oracle`, it is given, or a router's name."""
        return getattr(self.options, "router", "oracle") if self.withheld else "oracle"

    @property
    def needs_task_id(self) -> bool:
        """Whether the accuracies are those of a network that is told the withheld task id."""
        return self.withheld and self.router == "oracle"

    @property
    def classifier(self) -> str:
        """What answers, by the name that ``ClassifierOptions`` have for it."""
        chosen = getattr(self.options, "classifier", None)
        if chosen is not None:
            return str(chosen.name)
        return "local" if self.own_outputs else "joint"

    @property
    def own_outputs(self) -> bool:
        """Whether a task is answered among outputs of its own, whatever the classifier."""
        return self.private_heads or self.benchmark.scenario == "task"

    @property
    def by_statistics(self) -> bool:
        """Whether the answers come from statistics of classes, and not from trained outputs."""
        return not is_trained(self.classifier)

    @property
    def per_task_heads(self) -> bool:
        return self.own_outputs or self.classifier == "local"

    @property
    def side_by_side(self) -> bool:
        """Whether tasks answer with the heads of all tasks so far, since which is not known."""
        return not self.own_outputs and self.classifier == "local"

    def seed_for(self, *names: str | int) -> int:
        return seed_for(self.seed, *names)

    # The script

    def begin(self, task: Task) -> None:
        """Makes what task needs to exist before it is learned: its head. Changes nothing else."""
        if self.per_task_heads:
            self._add_head(task.id, task.classes)
        self.learned.append(task.id)
        self.freeze_for(task)

    def freeze_for(self, task: Task) -> None:
        """Decides what trains during ``task``. Default: the backbone and the task's head."""
        trainable_only(self.network, [self.network.backbone, self.head(task.id)])

    def learn(self, task: Task, fit: Fit) -> None:
        """The algorithm. Default: train on the task."""
        fit([task])

    def finish(self, task: Task) -> None:
        """Takes from a task just learned what the router and statistics need to answer."""
        remember(self, task)
        if self.by_statistics:
            self.add_statistics(task)

    def answers(self, task_id: int) -> bool:
        """Whether ``view(task_id)`` means something now.

        With one shared head for one label set, also for tasks that were not learned yet; statistics
        answer for nothing before there are some.
        """
        return task_id in self.learned or (
            self.benchmark.scenario == "domain"
            and not self.per_task_heads
            and (not self.by_statistics or bool(self.learned))
        )

    @guarded
    @contextmanager
    def view(self, task_id: int) -> Iterator[TaskNetwork]:
        """The network as that task sees it when it answers, inside the ``with``.

        It is trained as it answers, but for the classifier: see ``view_together``. Raises
        MethodError for a task that cannot answer. Those of subclasses are guarded, too.
        """
        if self.by_statistics:
            yield self.task_network([task_id], heads=self.network.get_submodule(ANSWERS))
        else:
            yield self.task_network(self.learned if self.side_by_side else [task_id])

    def uses(self, task_id: int, known: Mapping[tuple[int, int], bytes]) -> str:
        """The fingerprint of all that ``view(task_id)`` uses; ``known`` as in ``fingerprint``."""
        if self.sealed_alone:
            try:
                sealed = self.bank.fingerprint(task_id)
            except KeyError:
                pass
            else:
                return blake2b(b"".join(known.values()), digest_size=16).hexdigest() + sealed
        with self.view(task_id) as network:
            return fingerprint(network, known)

    @contextmanager
    def view_together(self, tasks: Sequence[Task]) -> Iterator[TaskNetwork]:
        """The network as tasks see it when they are trained together, or one by itself.

        Its outputs are those that train: of a local classifier the tasks' own alone, and not the
        statistics that answer.
        """
        if len(tasks) == 1 and not self.side_by_side and not self.by_statistics:
            with self.view(tasks[0].id) as network:
                yield network
        else:
            network = self.task_network([task.id for task in tasks])
            try:
                yield network
            finally:
                close(network)

    # Finding a withheld task id

    def base_features(self, x: Tensor) -> Tensor:
        """The features of x in the base network in eval mode, as it was before the first task."""
        features: Tensor = self.base.eval()(x)
        return features

    def predict(
        self, inputs: Any, task: int | None = None, router: str | None = None
    ) -> Prediction:
        """The labels by name and the probabilities of ``inputs``: an array or tensor (N, *input);
        of a run that was loaded also texts, or paths of images.

        By the view of ``task``, or by that which ``router`` finds for each input; where neither is
        given, by the method's own router or its one head. MethodError where it has neither.
        """
        return predict(self, self.reads(inputs), task, router)

    def add_statistics(self, task: Task) -> None:
        """Gives the samples of ``task`` to the classifier of statistics, in features as they are.

        Those of earlier tasks stay as they were taken, also where the backbone moved since.
        """
        samples, backbone = task.train(), self.network.backbone.eval()
        answers = self.network.get_submodule(ANSWERS).get_submodule(self.head_name(task.id))
        first = task.first_class if self.benchmark.scenario == "class" else 0
        seed = self.seed_for("statistics", task.id)
        cast(Statistics, answers).take(backbone, samples.x, samples.y, first, seed)

    @torch.inference_mode()
    def route(self, x: Inputs, router: str | None = None) -> tuple[Tensor, Tensor]:
        """For inputs x (N, *input): the task (N,) the router finds, and the output (N,) then.

        Outputs are the classes of all tasks in class-incremental runs, else labels. ``router`` is
        the method's own if none is named; MethodError for one that it cannot use.
        """
        return route(self, x, router or self.router)

    # The hooks of the training loop

    def param_groups(self) -> list[dict[str, Any]]:
        """Default: what requires grad. A group may hold `lr_scale`, a factor on the rate, and
        `zero_grad`: parameters that the loss does not reach have a gradient of 0, not none."""
        return [{"params": [p for p in self.network.parameters() if p.requires_grad]}]

    def start_fit(self, tasks: Sequence[Task], network: TaskNetwork) -> None:
        """Called when a fit begins or is resumed, before its first step."""

    @property
    def takes_features(self) -> bool:
        """Whether a fit may hand ``loss`` a network and inputs without their frozen beginning.

        Not where a method's own loss sees the inputs, and may want them as they are.
        """
        return type(self).loss is Method.loss

    @property
    def loss_is_a_mean(self) -> bool:
        """Whether the loss of a batch is the mean over its samples, so that the batch can be taken
        in parts. What a loss draws for its samples, the next part's continues."""
        return True

    def loss(self, network: TaskNetwork, x: Tensor, y: Tensor) -> Tensor:
        """The loss of one batch. Default: cross-entropy among the outputs of a sample's task."""
        return task_cross_entropy(network, network(x), y)

    def penalty(self) -> Tensor | None:
        """Added to the loss."""
        return None

    def after_backward(self) -> None:
        """Gradients are ready and not applied."""

    def after_step(self, step: int, total_steps: int) -> None:
        """The step, counted from 1, was applied; its gradients are still there."""

    # The state

    def state_dict(self) -> dict[str, Tensor]:
        """All learned state but what ``bank`` holds."""
        network = {f"network.{k}": v.detach() for k, v in self.network.state_dict().items()}
        return network | {f"kept.{k}": v for k, v in self.kept.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores ``state_dict()``; the same tasks must have begun."""
        device = self.network.device
        network = {k[8:]: v for k, v in state.items() if k.startswith("network.")}
        self.network.load_state_dict(network)
        self.kept = {k[5:]: v.to(device) for k, v in state.items() if k.startswith("kept.")}

    def base_state(self) -> dict[str, Tensor]:
        """The copy of the base that a router looks at; nothing where there is none."""
        base = self.base.state_dict() if "base" in vars(self) else {}
        return {f"base.{name}": tensor.detach() for name, tensor in base.items()}

    def load_base_state(self, state: Mapping[str, Tensor]) -> None:
        """Restores ``base_state()`` from ``state``, which may hold more."""
        if "base" in vars(self):
            self.base.load_state_dict({k[5:]: v for k, v in state.items() if k[:5] == "base."})

    def details(self) -> dict[str, Any]:
        """What a reader of the record wants to know of this method, as JSON. Default: nothing."""
        return {}

    def to_peft(self, sealed: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """A sealed task's tensors as PEFT's config and tensors; None where PEFT has no form."""
        return None

    def unfit_for_peft(self) -> str:
        """Why ``to_peft`` gives None although PEFT knows such adapters. Default: nothing."""
        return ""

    def from_peft(self, config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of ``to_peft``."""
        raise NotImplementedError

    # The cost

    def trained_parameters(self) -> int:
        """Parameters that receive updates in the fit that begins."""
        return sum(p.numel() for group in self.param_groups() for p in group["params"])

    def total_parameters(self) -> int:
        """Parameters needed to answer for all tasks so far, each once, with all merged that can be.

        - The network is what all tasks use together: base, heads, columns, branches. An adapter in
          it acts for every task; merged into its layer it needs no parameters of its own. A weight
          in 4 bits counts as one parameter, and cannot take an adapter in and stay in 4 bits.
        - Heads that trained, where statistics answer in their place, are not needed any more.
        - What is sealed in the bank is switched by task, and can be merged into nothing.
        - The copy of the base that a router looks at is needed; outputs of classes to come are not.

        Masks, samples, class means and what is kept only to learn on (Fisher information, anchors,
        remembered spaces, branches that could be merged) are no parameters; ``stored_bytes`` has
        them.
        """
        network = merged_parameter_count(self.network) - self._outputs_to_come()
        return network + self.bank.parameters() + self._base_copy()

    def _outputs_to_come(self) -> int:
        """Parameters of outputs that no task so far answers with: heads of tasks to come, a shared
        head's outputs for classes that were not seen yet.

        Of all heads, where statistics answer.
        """
        if self.by_statistics:
            return parameter_count(self.network.heads)
        if self.per_task_heads:
            answering = {self.head_name(task_id) for task_id in self.learned}
            heads = self.network.heads.items()
            return sum(parameter_count(head) for name, head in heads if name not in answering)
        if self.benchmark.scenario != "class":
            return 0
        seen = self.outputs_in_use()
        return sum(parameter[seen:].numel() for parameter in self.head(0).parameters())

    def _base_copy(self) -> int:
        """Parameters of the copy of the base that a router looks at."""
        return parameter_count(self.base) if "base" in vars(self) else 0

    def stored_bytes(self) -> int:
        """Bytes of all learned state: ``state_dict()`` and what the bank holds."""
        sealed = sum(byte_count(self.bank[task_id]) for task_id in self.bank)
        return byte_count(self.state_dict()) + byte_count(self.base_state()) + sealed

    # The heads

    def head_name(self, task_id: int) -> str:
        return f"task-{task_id:03d}" if self.per_task_heads else "shared"

    def head(self, task_id: int) -> nn.Module:
        return self.network.heads[self.head_name(task_id)]

    def _add_head(self, task_id: int, outputs: int) -> None:
        self._add_trained_head(task_id, outputs)
        if self.by_statistics:
            self._add_statistics_of(task_id, outputs)

    def _add_trained_head(self, task_id: int, outputs: int) -> None:
        name = self.head_name(task_id)
        features = self.head_features(task_id)
        self.network.add_head(name, outputs, self.seed_for("head", name), features)

    def _add_statistics_of(self, task_id: int, outputs: int) -> None:
        name, answers = self.head_name(task_id), self.network.get_submodule(ANSWERS)
        assert isinstance(answers, nn.ModuleDict)
        if name not in answers:
            answers[name] = statistics(
                self.options.classifier,
                outputs,
                self.head_features(task_id),
                self.seed_for("projection", name),
                self.network.device,
                again=not self.per_task_heads,
            )

    def head_features(self, task_id: int) -> int:
        """How many inputs the head of a task has. Default: the features of the backbone."""
        return self.network.features

    def _all_classes(self) -> int:
        last = self.benchmark.n_tasks - 1
        return self.benchmark.first_class(last) + self.benchmark.task_classes(last)

    def outputs_in_use(self) -> int:
        """The outputs in use of a class-incremental head: one per class of the tasks so far, or,
        where all classes compete from the start, of all tasks."""
        if self.classifier == "all-classes":
            return self._all_classes()
        latest = max(self.learned)
        return self.benchmark.first_class(latest) + self.benchmark.task_classes(latest)

    def task_network(
        self,
        task_ids: Sequence[int],
        backbone: nn.Module | None = None,
        heads: nn.Module | None = None,
    ) -> TaskNetwork:
        """The backbone with the heads of these tasks, as the scenario has them.

        ``heads`` stand in the place of those that train, by the same names.
        """
        backbone = self.network.backbone if backbone is None else backbone
        heads = self.network.heads if heads is None else heads
        own = [heads.get_submodule(self.head_name(task_id)) for task_id in task_ids]
        if self.per_task_heads:
            ends = [0]
            for task_id in task_ids:
                ends.append(ends[-1] + self.benchmark.task_classes(task_id))
            return TaskNetwork(backbone, own, dict(zip(task_ids, ends, strict=False)))
        if self.benchmark.scenario == "domain":
            return TaskNetwork(backbone, own[:1], dict.fromkeys(task_ids, 0))
        offsets = {task_id: self.benchmark.first_class(task_id) for task_id in task_ids}
        return TaskNetwork(backbone, own[:1], offsets, outputs=self.outputs_in_use())


def byte_count(tensors: Mapping[str, Tensor]) -> int:
    """The bytes of all tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def task_cross_entropy(network: TaskNetwork, logits: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of logits (N, outputs) and outputs y (N,).

    Where the heads of several tasks stand side by side, each sample competes only among the
    outputs of its own task.
    """
    if network.same_task is not None:
        logits = logits + network.same_task[y]
    return functional.cross_entropy(logits, y)
