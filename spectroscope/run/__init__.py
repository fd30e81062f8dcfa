"""Long runs of a specimen, in one process or several: record, ablate, merge, write the results."""

from spectroscope.run.checkpoint import Checkpoint as Checkpoint
from spectroscope.run.checkpoint import resume_hint as resume_hint
from spectroscope.run.commands import ablate as ablate
from spectroscope.run.commands import export as export
from spectroscope.run.commands import export_ablation as export_ablation
from spectroscope.run.commands import export_merged as export_merged
from spectroscope.run.commands import merge as merge
from spectroscope.run.distributed import is_distributed as is_distributed
from spectroscope.run.distributed import process_group as process_group
from spectroscope.run.loop import Inspection as Inspection
from spectroscope.run.loop import inspect as inspect
from spectroscope.run.shards import Shard as Shard
