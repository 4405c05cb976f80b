"""The GPU's side: one process that holds the pipeline, takes jobs from RQ, and draws them a step at a time."""
