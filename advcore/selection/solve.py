"""Hand problems to a solver, and join its answers to one selection."""

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from advcore import distributed
from advcore.errors import SettingProblem, must, require, unless
from advcore.kinds import find_type_problem
from advcore.rng import Stream
from advcore.rows import DenseRows, FactoredRows, Rows
from advcore.runtime.device import is_faster_batched
from advcore.runtime.out_of_memory import Pieces, explain_out_of_memory, is_out_of_memory
from advcore.runtime.signals import check
from advcore.selection.partition import Problem
from advcore.solvers.base import Solver, Task, estimate_memory, find_represent
from advcore.types import Event, Facts, Selection, is_ours

log = logging.getLogger(__name__)

_SMALLER = "use selection.partition: per_class, or a smaller selection.budget"
_CPU = torch.device("cpu")
_TOGETHER = 4e9  # bytes of matrices that are solved as one batch


def solve_all(
    solver: Solver, problems: list[Problem] | None, generator: Stream, device: torch.device = _CPU
) -> tuple[list[Selection], list[Event]]:
    """Return one answer per problem, and what fell back or was left out.

    Where a solver picks nothing for a problem that has a share, random picks are used, at the mean weight of all other
    picks. Of several processes, each solves every size-th problem. `problems` are the first one's; in the others they
    are None, and these solve on `device` and return two empty lists. Raises NoMemoryError for a problem
    that does not fit in memory in any way.
    """
    events: list[Event] = []
    dealt = distributed.deal(problems, partial(_pack_problem, with_goal=find_represent(solver) is not None), device)
    with distributed.fail_together(), explain_out_of_memory("while solving", _SMALLER):
        mine = [item if isinstance(item, Problem) else _unpack_problem(item) for item in dealt]
        answers = list(_answer(solver, mine, generator, events))
    packed = distributed.gather_values([vars(answer) for answer in answers])
    events = list(distributed.gather_events(events))
    if problems is None:
        return [], []
    return _complete(problems, _unpack_answers(packed, problems), generator, events)


def _pack_problem(problem: Problem, *, with_goal: bool) -> Facts:
    """Return a problem as values that can be sent; without rows where it has no share.

    with_goal : whether the solver represents the goal's rows, and so needs them.
    """
    packed: Facts = {"name": problem.name, "members": problem.members, "k": problem.k}
    packed |= dict.fromkeys(("rows", "target", "goal"))
    if problem.k:
        packed |= {"rows": _pack_rows(problem.rows), "target": problem.target}
        if with_goal and problem.goal is not None:
            packed["goal"] = _pack_rows(problem.goal)
    return packed


def _pack_rows(rows: Rows) -> Facts:
    if isinstance(rows, FactoredRows):
        return {"residuals": list(rows.residuals), "features": list(rows.features), "kind": rows.kind}
    assert isinstance(rows, DenseRows), "blocks are a single problem, which is not sent"
    return {"matrix": rows.matrix}


def _unpack_problem(packed: object) -> Problem:
    assert isinstance(packed, dict), "what `_pack_problem` made"
    load_target = None if packed["target"] is None else lambda: packed["target"]
    load_goal = None if packed["goal"] is None else partial(_unpack_rows, packed["goal"])
    load = partial(_unpack_rows, packed["rows"])
    return Problem(packed["name"], load, packed["members"], packed["k"], load_target=load_target, load_goal=load_goal)


def _unpack_rows(packed: Facts) -> Rows:
    if "matrix" in packed:
        return DenseRows(**packed)
    return FactoredRows(residuals=tuple(packed["residuals"]), features=tuple(packed["features"]), kind=packed["kind"])


def _unpack_answers(packed: list[list[Facts]], problems: list[Problem]) -> list[Selection]:
    """Put the answers of all processes in the order of the problems, on the problems' devices."""
    answers = []
    for i, problem in enumerate(problems):
        fields = packed[i % len(packed)][i // len(packed)]
        tensors = {name: fields[name].to(problem.members.device) for name in ("indices", "weights")}
        answers.append(Selection(**(fields | tensors)))
    return answers


def _complete(
    problems: list[Problem], answers: list[Selection], generator: Stream, events: list[Event]
) -> tuple[list[Selection], list[Event]]:
    """Put random picks where a solver picked nothing, and add what fell back or was left out to the events."""
    left_out = [problem.name for problem in problems if problem.k == 0]
    if left_out:
        events.append(Event("budget", f"the budget is too small for every class: nothing from {', '.join(left_out)}"))
    weights = torch.cat([answer.weights for answer in answers])
    if len(weights):
        mean = float(weights.mean())
    else:
        mean = sum(len(problem.members) for problem in problems) / sum(problem.k for problem in problems)
    for i, (problem, answer) in enumerate(zip(problems, answers, strict=True)):
        if problem.k and not len(answer.indices):
            answers[i] = _pick_at_random(problem, answer, mean, generator)
            events.append(
                Event(
                    "solver",
                    f"{problem.name}: the solver picked nothing ({answer.info.get('stopped')}); "
                    f"{problem.k} random picks",
                )
            )
    return answers, [*events, *_describe_shortfall(problems, answers)]


def _pick_at_random(problem: Problem, answer: Selection, weight: float, generator: Stream) -> Selection:
    """Return k random picks of one weight, with the info of the empty answer that they replace."""
    picks = generator.child(problem.name, "empty").at(problem.members).permutation()[: problem.k]
    weights = torch.full((problem.k,), weight, dtype=torch.float64, device=picks.device)
    return Selection(indices=picks, weights=weights, info={**answer.info, "filled": problem.k})


def _answer(solver: Solver, problems: list[Problem], generator: Stream, events: list[Event]) -> Iterator[Selection]:
    """Yield one answer per problem, in order; rows are loaded one group of problems at a time."""
    pieces = Pieces(max(1, len(problems)), least=1, of="problems")
    for group in _group_problems(solver, problems):
        check()
        # The tasks have no name here: their rows would be held while the next ones are loaded.
        solver, answers = _solve_within_memory(solver, pieces, _load_tasks(solver, group, generator), events)
        for problem in group:
            yield answers.pop(0) if problem.k else _leave_out(problem)
    events.extend(pieces.events)


def _load_tasks(solver: Solver, problems: list[Problem], generator: Stream) -> list[Task]:
    represents = find_represent(solver) is not None
    tasks = []
    for problem in problems:
        if not problem.k:
            continue
        bound = generator.child(problem.name).at(problem.members)
        goal = problem.goal if represents else None
        target = problem.target if goal is None else None
        tasks.append(Task(rows=problem.rows, k=problem.k, target=target, goal=goal, generator=bound))
    return tasks


def _solve_within_memory(
    solver: Solver, pieces: Pieces, tasks: list[Task], events: list[Event]
) -> tuple[Solver, list[Selection]]:
    """Return the solver for the next tasks, and one answer per task.

    When memory runs out, fewer tasks are solved as one batch; if that is not enough, each is solved without its matrix.
    """
    try:
        return solver, _solve_tasks(solver, pieces, tasks)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or getattr(solver, "matrix", "free") == "free":
            raise
    events.append(Event("memory", "out of memory with a problem's matrix held; continuing without it"))
    log.warning("%s", events[-1])
    solver = replace(solver, matrix="free")  # outside of the handler, where what the failed call held is free again
    return solver, _solve_tasks(solver, pieces, tasks)


def _solve_tasks(solver: Solver, pieces: Pieces, tasks: list[Task]) -> list[Selection]:
    """Return one answer per task; a solver that can solves as many as one batch as memory allows."""

    def work(piece: slice) -> list[Selection]:
        if hasattr(solver, "together"):
            answers = solver.together(tasks[piece])
        else:
            answers = [_solve_task(solver, task) for task in tasks[piece]]
        source = f"the answer of {type(solver).__name__}"
        require(*(find_type_problem(source, Selection, answer) for answer in answers))
        if not is_ours(solver):
            require(*(_find_picks_problem(source, *pair) for pair in zip(tasks[piece], answers, strict=True)))
        return answers

    return list(itertools.chain.from_iterable(pieces.run(len(tasks), work)))


def _solve_task(solver: Solver, task: Task) -> Selection:
    """Answer a task: by rows that represent the goal, where there is one, else by rows that sum to the target."""
    represent = find_represent(solver)
    if represent is not None and task.goal is not None:
        return represent(task.rows, task.k, goal=task.goal, generator=task.generator)
    return solver(task.rows, task.k, target=task.target, generator=task.generator)


def _find_picks_problem(source: str, task: Task, answer: Selection) -> SettingProblem | None:
    """Return the problem of an answer whose picks are more than asked for, or no rows of the task."""
    picks = answer.indices
    low, high = min(picks.tolist(), default=0), max(picks.tolist(), default=0)
    is_right = picks.dtype == torch.long and len(picks) <= task.k and 0 <= low <= high < len(task.rows)
    rule = f"at most {task.k} of the rows 0 to {len(task.rows) - 1}, as torch.int64"
    return unless(is_right, must(source, rule, f"{len(picks)} picks from {low} to {high}, {picks.dtype}"))


def _group_problems(solver: Solver, problems: list[Problem]) -> Iterator[list[Problem]]:
    """Yield problems that are solved together: on CUDA as many as need up to 4 GB, elsewhere one at a time."""
    group: list[Problem] = []
    total = 0
    for problem in problems:
        needed = sum(estimate_memory(solver, len(problem.members), problem.k).values())
        if group and (not is_faster_batched(problem.members) or total + needed > _TOGETHER):
            yield group
            group, total = [], 0
        group.append(problem)
        total += needed
    yield group


def _describe_shortfall(problems: list[Problem], answers: list[Selection]) -> list[Event]:
    """Return an event that names problems with fewer picks than asked for, and why; none if all have enough."""
    short = [
        f"{problem.name} {len(answer.indices)} of {problem.k} ({answer.info.get('stopped')})"
        for problem, answer in zip(problems, answers, strict=True)
        if len(answer.indices) < problem.k
    ]
    if not short:
        return []
    more = f"; and {len(short) - 3} more" if len(short) > 3 else ""
    return [Event("solver", f"fewer picks than asked for: {'; '.join(short[:3])}{more}")]


def _leave_out(problem: Problem) -> Selection:
    nothing = problem.members[:0]
    return Selection(indices=nothing, weights=nothing.double(), info={"stopped": "no share"})


@dataclass(frozen=True)
class Solution:
    """What the answers to all problems of a selection come to.

    indices : (K,) long, into the data set, on the CPU. weights : (K,) float32. blocks : (K,) long, the block in which
    each example came, where blocks are chosen whole; else None. info : the solver's entries, one per problem.
    fallbacks : what fell back or was left out.
    """

    indices: Tensor
    weights: Tensor
    blocks: Tensor | None = None
    info: Sequence[Facts] = ()
    fallbacks: Sequence[Event] = ()


def solve(solver: Solver, problems: list[Problem] | None, generator: Stream, device: torch.device) -> Solution:
    """Return the joined answers to all problems, the same in every process; arguments are those of `solve_all`."""
    answers, fallbacks = solve_all(solver, problems, generator, device)

    def join_answers() -> Facts:
        indices, weights, blocks = join(problems or [], answers)
        pairs = zip(problems or [], answers, strict=True)
        return {
            "indices": indices.cpu(),
            "weights": weights.float().cpu(),
            "blocks": None if blocks is None else blocks.cpu(),
            "info": [{"problem": problem.name, "k": problem.k, **answer.info} for problem, answer in pairs],
        }

    # only the first process has fallbacks, which all are given
    return Solution(**distributed.run_on_first(join_answers), fallbacks=distributed.gather_events(fallbacks))


def join(problems: list[Problem], answers: list[Selection]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return indices (K,) into the data set, weights (K,), and the block of each (K,), where blocks were chosen whole.

    The third is None for problems whose rows represent single examples; a problem over blocks is the only one.
    """
    weights = torch.cat([answer.weights for answer in answers])
    all_blocks = problems[0].blocks
    if all_blocks is None:
        pairs = zip(problems, answers, strict=True)
        return torch.cat([problem.members[answer.indices] for problem, answer in pairs]), weights, None
    blocks = [all_blocks[i] for i in answers[0].indices.tolist()]
    sizes = torch.tensor([len(block) for block in blocks], device=blocks[0].device)
    numbers = torch.arange(len(blocks)).to(sizes)
    return torch.cat(blocks), weights.repeat_interleave(sizes), numbers.repeat_interleave(sizes)
