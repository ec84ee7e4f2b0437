"""A report page

`advcore report RUN` writes one HTML page about a run. The page begins with a summary that can be read aloud. Next come
accuracies with their intervals, images with the highest and lowest weights, cost and learning curves. Then every
selection is shown with its [gradient error](../glossary.md#gradient-error), the gradient error of random subsets,
weights and classes. The page loads nothing from elsewhere and follows the reader's light or dark scheme. [Reading a
report](../report.md) explains each section.

This script makes a short run of `experiments/trades_gradmatch.yaml` and writes its report. On the command line, use
`advcore run` and `advcore report`. [The page that it wrote](report_page.html) opens in a browser; four of its charts
are below.
"""

import re
import tempfile
from pathlib import Path

from advcore.config.load import load
from advcore.export.report import report
from advcore.run.prepare import prepare
from advcore.run.run import run

changes = ["training.epochs=10", "model.width=8", "attack.steps=3", "attack.step_size=0.05", "selection.period=2"]
changes += ["name=report_page", "evaluation.attacks.0.steps=10", "evaluation.attacks.0.restarts=1"]
config = load(Path(__file__).parents[2] / "experiments" / "trades_gradmatch.yaml", changes)
with tempfile.TemporaryDirectory() as folder:
    record = run(prepare(config), Path(folder, "run"))
    page = report(Path(folder, "run"), Path("report_page.html"), images=4).read_text()

robust = record.final["last"]["attacks"][0]
print(f"robust {robust['accuracy']:.1%} of {robust['n']} test images, {len(record.selections)} selections")
assert all(entry["gradient_error"] < entry["gradient_error_random"] for entry in record.selections)

# Four of the page's charts, in its own colours for both schemes.
style = re.search(r"<style>(.*?)</style>", page, re.S)[1]
style = style[: style.index("* {")] + style[style.index("svg text") : style.index(".gallery {")]
figures = re.findall(r'<div class="narrow"><svg(.*?)</svg></div>.*?<figcaption>(.*?)</figcaption>', page, re.S)
charts = {caption: chart for chart, caption in figures}
titles = {
    "Accuracy on validation": "Accuracy on validation examples",
    "Gradient error": "Gradient error of coresets and of random subsets",
    f"Weights of the selection at {record.selections[-1]['epoch']}": "Weights of the last selection",
    "Grey bars": "Classes in the data and in coresets",
}
parts = []
for i, (start, title) in enumerate(titles.items()):
    chart = next(chart for caption, chart in charts.items() if caption.startswith(start))
    x, y = 20 + 370 * (i % 2), 28 + 240 * (i // 2)
    parts.append(f'<text x="{x}" y="{y - 8}">{title}</text><svg x="{x}" y="{y}" width="340" height="200"{chart}</svg>')
head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 740 490" font-family="system-ui, sans-serif">'
background = '<rect width="740" height="490" fill="var(--paper)"/>'
Path("report_page.svg").write_text(f"{head}<style>{style}</style>{background}{''.join(parts)}</svg>\n")
