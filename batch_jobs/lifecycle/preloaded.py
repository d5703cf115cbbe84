"""What all worker processes have in common: loaded once, in the process that they are forked from, and shared."""

import batch_jobs.lifecycle.cells
import batch_jobs.lifecycle.checking
import batch_jobs.render.shard_file
import batch_jobs.render.worker  # noqa: F401
from batch_jobs import system


def _set_up() -> None:
    system.give_memory_back()
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet

    pc.count_substring(pa.array(["a"]), "a")  # the first call of all sets up 30 MB of functions


_set_up()
