"""What the tests of all commands share."""

# Commands take loaders when they run, these modules when they are imported. Imported for the first time while a test
# has put a stand-in in a loader's place, they would keep the stand-in for every later test of the process.
import synco_hub.cli.ablation_runs
import synco_hub.cli.demo_steps
import synco_hub.cli.evaluation_inputs
import synco_hub.cli.knn_evaluation  # noqa: F401
