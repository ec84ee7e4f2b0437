"""A Pareto picture from a suite's records

`advcore bench SUITE` runs methods with several seeds and writes one [record](../glossary.md#record) per run. All tables
and pictures are made from records. This picture shows robust accuracy over relative cost, from the committed records of
the suite `savings`, which are small runs on CIFAR-10. A point is the mean of a method over seeds, and its bar is the
sample standard deviation. The dashed staircase is the Pareto front, the highest mean at each cost.
`advcore report FOLDER` draws the same picture without any code.

From a quarter of the cost of full training upwards, the front consists of methods that train on all data with a weaker
attack. The runs are small; [the page of the suite](../../benchmarks/savings.md) discusses what they show.
"""

from pathlib import Path

import matplotlib.pyplot as plt

from advcore.reporting.compare import Run, group_runs, summarize_methods
from advcore.reporting.front import find_front
from advcore.reporting.record import RunRecord

folder = Path(__file__).parents[2] / "benchmarks" / "records" / "savings"
runs = [Run(path.stem, RunRecord.load(path)) for path in sorted(folder.glob("*-s[0-9]*.json"))]
groups = {name: [run.record for run in members] for name, members in group_runs(runs).items()}
methods = summarize_methods(groups)
front = find_front(methods)
for method in front:
    print(f"{method.describe()} ({method.kind})")

figure, axis = plt.subplots(figsize=(8.6, 4.6))
markers = {"all data": "o", "random subset": "s", "chosen coreset": "^", "minibatch rule": "D"}
for kind, marker in markers.items():
    members = [method for method in methods if method.kind == kind]
    if members:
        costs, accuracies = [method.cost for method in members], [method.accuracy for method in members]
        spreads = [method.spread for method in members]
        axis.errorbar(costs, accuracies, yerr=spreads, fmt=marker, linewidth=1, markersize=6, label=kind)
axis.step(
    [method.cost for method in front] + [1.1],
    [method.accuracy for method in front] + [front[-1].accuracy],
    where="post",
    color="#7f858d",
    linestyle="--",
    linewidth=1,
)
for method in front:
    place = dict(xytext=(6, -6), textcoords="offset points", rotation=-30, rotation_mode="anchor", va="top", fontsize=9)
    axis.annotate(method.name, (method.cost, method.accuracy), **place)
axis.set(xlabel="relative cost", ylabel="robust accuracy, %", xlim=(0, 1.1))
axis.grid(True)
axis.legend(loc="lower right")
figure.savefig("pareto-transparent.png")

from_a_quarter = [method for method in front if method.cost >= 0.25]
assert from_a_quarter
assert all(method.kind == "all data" for method in from_a_quarter)
