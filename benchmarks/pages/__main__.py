"""Write every page that comes from committed records: python benchmarks/pages, or `make pages`.

docs/reproducing.md lists the pages, and which command makes the records of each.
"""

import checkpoint_cost_page
import choosing_page
import compute_page
import cpu_defaults_table
import cpu_page
import diagnostics_page
import evidence_table
import gpu_page
import masking_page
import memory_page
import network_page
import papers_page
import pool_scale_page
import schedule_page
import solver_page
import tables
import threads_page

PAGES = (
    *(tables, solver_page, cpu_page, cpu_defaults_table, gpu_page, threads_page, memory_page, checkpoint_cost_page),
    *(compute_page, diagnostics_page, masking_page, choosing_page, network_page, pool_scale_page),
    *(evidence_table, papers_page, schedule_page),
)

for page in PAGES:
    page.write()
