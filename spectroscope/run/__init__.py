"""What can be done with a specimen: run it, change it ReLU by ReLU, and write what was found."""

from spectroscope.run.checkpoint import Checkpoint as Checkpoint
from spectroscope.run.checkpoint import how_to_go_on as how_to_go_on
from spectroscope.run.commands import ablate as ablate
from spectroscope.run.commands import export as export
from spectroscope.run.commands import export_ablation as export_ablation
from spectroscope.run.commands import export_merged as export_merged
from spectroscope.run.commands import merge as merge
from spectroscope.run.distributed import joined as joined
from spectroscope.run.distributed import launched as launched
from spectroscope.run.loop import Inspection as Inspection
from spectroscope.run.loop import inspect as inspect
from spectroscope.run.shards import Shard as Shard
