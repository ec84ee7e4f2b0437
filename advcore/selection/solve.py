"""Problems to a solver, its answers to one selection."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from advcore import distributed
from advcore.device import batches
from advcore.pieces import Pieces, advised, ran_out
from advcore.rng import Stream
from advcore.rows import DenseRows, FactoredRows, Rows
from advcore.selection.partition import Problem
from advcore.signals import check
from advcore.solvers.base import Solver, Task, memory_of
from advcore.types import Selection

log = logging.getLogger(__name__)
_SMALLER = "use selection.partition: per_class, or a smaller selection.budget"
_TOGETHER = 4e9  # bytes of matrices that are solved as one batch


def solve_all(
    solver: Solver, problems: list[Problem] | None, generator: Stream, device: torch.device | None = None
) -> tuple[list[Selection], list[str]]:
    """One answer a problem; a problem with a share that its solver leaves empty gets random picks at the others'
    mean weight. What fell back or was left out comes as events.

    Of several processes, each solves every size-th problem. `problems` are the first one's, None in the others, which
    solve on `device` and return no more than an empty list. Raises NoMemoryError for a problem that fits no way.
    """
    own, events = distributed.dealt(problems, _told, device), []
    with distributed.together(), advised("while solving", _SMALLER):
        mine = [one if isinstance(one, Problem) else _heard(one) for one in own]
        answers = list(_answers(solver, mine, generator, events))
    if distributed.size() == 1:
        return _completed(problems, answers, generator, events)
    found, events = distributed.gathered([vars(answer) for answer in answers]), list(distributed.events(events))
    if problems is None:
        return [], []
    rest = [iter(one) for one in found]
    told = [next(rest[i % len(rest)]) for i in range(len(problems))]
    answers = [_heard_answer(one, problem.members.device) for one, problem in zip(told, problems, strict=True)]
    return _completed(problems, answers, generator, events)


def _told(problem: Problem) -> dict[str, Any]:
    """A problem for another process; without rows where it has no share."""
    kept = {"name": problem.name, "members": problem.members, "k": problem.k}
    return kept | {"rows": problem.k and _plain(problem.rows), "target": problem.k and problem.target}


def _plain(rows: Rows) -> dict[str, Any]:
    if isinstance(rows, FactoredRows):
        return {"residuals": list(rows.residuals), "features": list(rows.features), "kind": rows.kind}
    return {"matrix": rows.matrix}


def _heard(told: dict[str, Any]) -> Problem:
    """What `_told` told of."""
    rows = told["rows"]
    if told["k"] and "matrix" in rows:
        made = DenseRows(**rows)
    elif told["k"]:
        made = FactoredRows(**(rows | {name: tuple(rows[name]) for name in ("residuals", "features")}))
    target = None if told["target"] is None else lambda: told["target"]
    return Problem(told["name"], lambda: made, told["members"], told["k"], load_target=target)


def _heard_answer(told: dict[str, Any], device: torch.device) -> Selection:
    return Selection(**(told | {name: told[name].to(device) for name in ("indices", "weights")}))


def _completed(
    problems: list[Problem], answers: list[Selection], generator: Stream, events: list[str]
) -> tuple[list[Selection], list[str]]:
    """The answers with random picks at the others' mean weight for a problem with a share that its solver left empty;
    and what fell back or was left out."""
    left_out = [problem.name for problem in problems if problem.k == 0]
    if left_out:
        events.append(f"the budget is too small for every class: nothing from {', '.join(left_out)}")
    given = torch.cat([answer.weights for answer in answers])
    mean = float(given.mean()) if len(given) else sum(len(p.members) for p in problems) / sum(p.k for p in problems)
    for i, (problem, answer) in enumerate(zip(problems, answers, strict=True)):
        if problem.k and not len(answer.indices):
            stream = generator.child(problem.name, "empty").at(problem.members)
            picks = stream.permutation()[: problem.k]
            weights = torch.full((problem.k,), mean, dtype=torch.float64, device=picks.device)
            answers[i] = Selection(indices=picks, weights=weights, info={**answer.info, "filled": problem.k})
            events.append(
                f"{problem.name}: the solver picked nothing ({answer.info.get('stopped')}); {problem.k} random picks"
            )
    return answers, [*events, *_shortfall(problems, answers)]


def _answers(solver: Solver, problems: list[Problem], generator: Stream, events: list[str]) -> Iterator[Selection]:
    """One problem's rows are loaded at a time; on CUDA a few GB of problems, which are then solved as one batch."""
    pieces = Pieces(max(1, len(problems)), least=1, of="problems")
    for group in _groups(solver, problems):
        check()
        solver, found = _within_memory(solver, pieces, _tasks(group, generator), events)
        yield from (found.pop(0) if p.k else _nothing(p, "no share") for p in group)
    events.extend(pieces.events)


def _tasks(group: list[Problem], generator: Stream) -> list[Task]:
    """Of the problems that have a share; their rows are loaded here."""
    return [
        Task(rows=p.rows, k=p.k, target=p.target, generator=generator.child(p.name).at(p.members)) for p in group if p.k
    ]


def _within_memory(
    solver: Solver, pieces: Pieces, tasks: list[Task], events: list[str]
) -> tuple[Solver, list[Selection]]:
    """One answer a task, and what solves the next ones. When memory runs out, fewer are solved as one batch; and then,
    one by one, without their matrix."""
    try:
        return solver, _solved(solver, pieces, tasks)
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error) or getattr(solver, "matrix", "free") == "free":
            raise
    events.append("out of memory with a problem's matrix held; going on without it")
    log.warning("%s", events[-1])
    solver = replace(solver, matrix="free")  # here, where what the failed call held is free
    return solver, _solved(solver, pieces, tasks)


def _solved(solver: Solver, pieces: Pieces, tasks: list[Task]) -> list[Selection]:
    def work(i: slice) -> list[Selection]:
        together = getattr(solver, "together", None)
        if together:
            return together(tasks[i])
        return [solver(t.rows, t.k, target=t.target, generator=t.generator) for t in tasks[i]]

    return [answer for part in pieces.over(len(tasks), work) for answer in part]


def _groups(solver: Solver, problems: list[Problem]) -> Iterator[list[Problem]]:
    """Problems to be solved together: on CUDA up to 4 GB of them, elsewhere each on its own."""
    group, held = [], 0
    for problem in problems:
        took = sum(memory_of(solver, len(problem.members), problem.k).values())
        if group and (not batches(problem.members) or held + took > _TOGETHER):
            yield group
            group, held = [], 0
        group, held = [*group, problem], held + took
    yield group


def _shortfall(problems: list[Problem], answers: list[Selection]) -> list[str]:
    """Which problems got fewer picks than asked for, and why; nothing if none did."""
    short = [
        f"{problem.name} {len(answer.indices)} of {problem.k} ({answer.info.get('stopped')})"
        for problem, answer in zip(problems, answers, strict=True)
        if len(answer.indices) < problem.k
    ]
    more = f"; and {len(short) - 3} more" if len(short) > 3 else ""
    return [f"fewer picks than asked for: {'; '.join(short[:3])}{more}"] if short else []


def _nothing(problem: Problem, why: str) -> Selection:
    none = torch.zeros(0, dtype=torch.long, device=problem.members.device)
    return Selection(indices=none, weights=none.double(), info={"stopped": why})


@dataclass(frozen=True)
class Solution:
    """What the answers to all problems of a selection come to.

    indices : (K,) long, into the data set, on the CPU. weights : (K,) float32. blocks : (K,) long, the block in which
    each example came, where blocks are chosen whole; else None. info : the solver's entries, one per problem.
    fallbacks : what fell back or was left out, one line each.
    """

    indices: Tensor
    weights: Tensor
    blocks: Tensor | None = None
    info: Sequence[dict[str, object]] = ()
    fallbacks: Sequence[str] = ()


def join_answers(problems: list[Problem], answers: list[Selection], fallbacks: list[str]) -> Solution:
    """Join the answers to all problems into one solution."""
    indices, weights, blocks = join(problems, answers)
    pairs = zip(problems, answers, strict=True)
    return Solution(
        indices=indices.cpu(),
        weights=weights.float().cpu(),
        blocks=None if blocks is None else blocks.cpu(),
        info=[{"problem": problem.name, "k": problem.k, **answer.info} for problem, answer in pairs],
        fallbacks=fallbacks,
    )


def join(problems: list[Problem], answers: list[Selection]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return indices (K,) into the data set, weights (K,), and the block of each (K,), where blocks were chosen whole.

    The third is None for problems whose rows stand for single examples.
    """
    weights = torch.cat([answer.weights for answer in answers])
    pairs = list(zip(problems, answers, strict=True))
    if problems[0].blocks is None:
        indices = torch.cat([problem.members[answer.indices] for problem, answer in pairs])
        return indices, weights, None
    blocks: list[Tensor] = []
    for problem, answer in pairs:
        blocks += [problem.blocks[i] for i in answer.indices.tolist()]
    sizes = torch.tensor([len(block) for block in blocks], device=blocks[0].device)
    numbers = torch.arange(len(blocks)).to(sizes)
    return torch.cat(blocks), weights.repeat_interleave(sizes), numbers.repeat_interleave(sizes)
