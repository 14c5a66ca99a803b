"""What every column means: in words, as a formula, and whose it is."""

from __future__ import annotations

from dataclasses import dataclass

MATRIX = (
    "R[i, j] is the accuracy on task j after learning task i, of T tasks counted from 0. What was "
    "not measured is shown as -, never as 0."
)


@dataclass(frozen=True)
class Meaning:
    """``formula`` is in terms of the accuracy matrix R; ``source`` is empty for our own."""

    words: str
    formula: str = ""
    source: str = ""


MEANINGS = {
    "average_accuracy": Meaning(
        "Accuracy over all tasks after the last one.",
        "mean_j R[T−1, j]",
        "Lopez-Paz & Ranzato 2017, Gradient Episodic Memory, section 2 (ACC)",
    ),
    "average_incremental_accuracy": Meaning(
        "Accuracy over the tasks seen so far, averaged along the way.",
        "mean_i mean_{j≤i} R[i, j]",
        "Rebuffi et al. 2017, iCaRL, section 4",
    ),
    "learning_accuracy": Meaning(
        "How well each task is learned when it is its turn.",
        "mean_j R[j, j]",
        "Riemer et al. 2019, Learning to Learn without Forgetting, section 5 (LA)",
    ),
    "forgetting": Meaning(
        "What was lost of each task since its best time; negative if old tasks got better. The "
        "maximum leaves the last line out. Avalanche's (first minus last) and Mammoth's (never "
        "negative) are other numbers.",
        "mean_{j<T−1} ( max_{j≤i<T−1} R[i, j] − R[T−1, j] )",
        "Chaudhry et al. 2018, Riemannian Walk, F_k at k = T",
    ),
    "backward_transfer": Meaning(
        "What later tasks did to earlier ones.",
        "mean_{j<T−1} ( R[T−1, j] − R[j, j] )",
        "Lopez-Paz & Ranzato 2017, section 2 (BWT)",
    ),
    "forward_transfer": Meaning(
        "What earlier tasks give to one not yet learned; b_j is the accuracy of the untrained "
        "network. Not measured where the head of the next task is untrained.",
        "mean_{j>0} ( R[j−1, j] − b_j )",
        "Lopez-Paz & Ranzato 2017, section 2 (FWT)",
    ),
    "intransigence": Meaning(
        "What learning in sequence costs: the accuracy of a joint run of the same seed, on all "
        "tasks, minus the method's learning accuracy; J is the joint run's matrix. Not measured "
        "without a joint row, or with several.",
        "mean_j ( J[T−1, j] − R[j, j] )",
        "after Chaudhry et al. 2018, whose reference for task j is trained on the tasks up to j",
    ),
    "last_task_intransigence": Meaning(
        "The same of the last task alone, for which the joint run is the reference that the paper "
        "asks for.",
        "J[T−1, T−1] − R[T−1, T−1]",
        "Chaudhry et al. 2018, Riemannian Walk, I_k at k = T",
    ),
    "average_validation_accuracy": Meaning(
        "As average accuracy, on samples held out of every task's training; to choose by.",
        "mean_j V[T−1, j]",
    ),
    "trained_params_per_task": Meaning(
        "Parameters that are updated while one task is learned, averaged over the tasks."
    ),
    "added_params_per_task": Meaning(
        "Parameters kept for ever for one more task: the mean growth of the total from the second "
        "task on."
    ),
    "trained_share": Meaning("Parameters trained per task, in units of the backbone's."),
    "added_share": Meaning("Parameters added per task, in units of the backbone's."),
    "total_params": Meaning("All parameters after the last task."),
    "stored_bytes": Meaning(
        "What must be on disk to answer for all tasks: weights, masks, 4-bit codes, statistics, "
        "rehearsal memory; no state of the optimiser."
    ),
    "train_seconds": Meaning("Seconds of learning, all tasks together; no evaluation."),
    "eval_seconds": Meaning("Seconds of evaluation."),
    "peak_memory_bytes": Meaning("The most memory of the process, or of the device."),
    "steps_to_95": Meaning(
        "Optimiser steps until a task's accuracy on held-out samples is 95 % of what it ends with; "
        "mean over tasks (`learning_curve`)."
    ),
    "seconds_to_95": Meaning("Seconds of training until then."),
    "probe_before": Meaning(
        "What pretraining gave: the accuracy of the nearest class mean, in features of the base, "
        "on the classes of `probe`, which no task has."
    ),
    "probe_lost": Meaning(
        "What of it was lost when all tasks were learned, in the backbone as the last task sees "
        "it. A base under adapters is still there without them."
    ),
    "n_seeds": Meaning("Seeds that are in the numbers; of how many, where some are not."),
    "router": Meaning(
        "Who finds the task of an input where the scenario withholds it; the average accuracy of "
        "such a row is that with the router."
    ),
    "oracle": Meaning("Average accuracy of the same network when it is told the true task."),
    "router_accuracy": Meaning("How often the router finds the true task, over all tasks."),
}
"""By the names of ``COLUMNS``: measures, costs, and what is said of routers."""

STATISTICS = (
    "A number with ± is the mean over seeds and their sample standard deviation; the 95 % interval "
    "is that of the mean, by Student's t. Differences are paired by seed, and p is that of the "
    "exact two-sided sign-flip test (Fisher 1935, The Design of Experiments, section 21): with n "
    "seeds it cannot be below 2/2ⁿ."
)
