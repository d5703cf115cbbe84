"""The report of a job: its facts from ledger, plan, snapshot and cache, and the two files that are made of them."""
