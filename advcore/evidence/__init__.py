"""Recommend a recipe for a given cost, from a table of committed results.

The table, `recipes.json`, is written by benchmarks/pages/evidence_table.py: renewing it changes no code.
"""

from advcore.evidence.recommend import Recommendation, recommend
from advcore.evidence.run_file import format_run_file
from advcore.evidence.studies import Beside, Recipe, Study, load_studies

__all__ = ["Beside", "Recipe", "Recommendation", "Study", "format_run_file", "load_studies", "recommend"]
