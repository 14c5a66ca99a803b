"""What every registered method promises; see ``lora_cl.testing``."""

from __future__ import annotations

from lora_cl.benchmarks import SCENARIOS
from lora_cl.methods import METHODS
from lora_cl.methods.shared import SharedBackbone
from lora_cl.testing import method_contract
from lora_cl.testing.contract import ADAPTERS, cases_of

OPTIONS = {
    "lora": "rank: 3",
    "dora": "rank: 3",
    "qlora": "rank: 3",
    "seq_lora": "rank: 3",
    "o_lora": "rank: 3",
    "inflora": "rank: 3",
    "merged": "rank: 3, density: 1.0",
    "adalora": "rank: 4, target_rank: 2",
    "replay": "per_class: 10",
    "derpp": "size: 40",
    "sd_lora": "rank: 3",
    "shared_private": "private_dim: 8",
    "ewc": "strength: 100.0",
    "si": "c: 0.5",
    "lwf": "weighting: fixed, strength: 0.2",
}

TestContract = method_contract(*METHODS, options=OPTIONS, weak=("frozen", "merged"))


def test_every_method_is_tested_in_every_scenario_and_with_every_adapter_it_takes() -> None:
    adaptable = [m for m in METHODS if "adapter" in METHODS[m].Options.model_fields]
    assert adaptable
    assert all(issubclass(METHODS[method], SharedBackbone) for method in adaptable)
    plain = len(METHODS) * len(SCENARIOS)
    adapted = len(adaptable) * len(SCENARIOS) * len(ADAPTERS[1:])
    assert len(TestContract.cases) == plain + adapted
    assert len(set(TestContract.cases)) == plain + adapted


def test_a_method_that_takes_no_adapter_has_a_case_a_scenario() -> None:
    assert len(list(cases_of("lora", ""))) == len(SCENARIOS)


def test_which_methods_are_isolated_and_where() -> None:
    """All with a head of their own per task but shared-private; frozen ones with such heads."""
    from lora_cl.testing.by_hand import made

    isolated, seen = set(), 0
    for case in TestContract.cases:
        if case.adapter is None:
            seen += 1
            if made(case.text()).isolated:
                isolated.add((case.method, case.scenario))
    private = {m for m in METHODS if METHODS[m].private_heads} - {"shared_private"}
    assert isolated == {(m, s) for m in private for s in SCENARIOS} | {("frozen", "task")}
    assert seen == len(METHODS) * len(SCENARIOS)
