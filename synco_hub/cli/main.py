"""`synco-hub`: one command for each thing a user wants; each has an example in its help.

The table names every command; what one needs is imported when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from synco_hub.cli import options
from synco_hub.errors import DEBUG_VARIABLE, FlagError, report_errors, suggest
from synco_hub.protocols import BACKBONE, CLASSIFIER, EVALUATORS, NOTHING, Evaluator, resolve
from synco_hub.settings import DatasetChoice, EmbeddingSettings, ForwardSettings
from synco_hub.version import __version__

ABOUT = "SynCo-v2, MoBY and BYOL vision transformers: pretrain, load, measure, look."
HELP = ("-h", "--help")
USAGE_ERROR = 2
# Their names are given outright, or as the command's argument.
_OTHER_THAN_DATASET = tuple(field.name for field in fields(DatasetChoice) if field.name != "dataset")
# Every file is looked at, whatever its class and split.
_DATASET_OF_DUPLICATES = tuple(name for name in _OTHER_THAN_DATASET if name not in ("label_column", "split_seed"))


@dataclass(frozen=True)
class Command:
    """One line of the table.

    Attributes:
        function: ``module:function``; takes ``given``, then an instance of each of ``options``, and may return an exit
            code. Without options it takes the list of arguments as it is, `--help` included.
        summary: First lines of its help.
        example: A command that works.
        options: Dataclasses whose fields are its flags.
        only: Fields of `DatasetChoice` that it takes, where not all.
        defaults: Where its defaults are not those of the dataclasses.
        given: What the function is told beside the flags.
        further: Whether the function takes the list of all other flags as well, for another command.
    """

    function: str
    summary: str
    example: str
    options: tuple[type, ...] = ()
    only: tuple[str, ...] | None = None
    defaults: tuple[tuple[str, Any], ...] = ()
    given: tuple[Any, ...] = ()
    further: bool = False


def _evaluation(name: str, row: Evaluator) -> Command:
    models = {BACKBONE: options.BackboneOption, CLASSIFIER: options.ClassifierOption, NOTHING: options.NetworkOption}
    is_file = bool(Path(row.output).suffix)
    output, flag = (options.ResultFile, "output") if is_file else (options.ResultFolder, "output_dir")
    return Command(
        "synco_hub.cli.evaluate:evaluate_protocol",
        row.summary,
        row.example,
        (models[row.model], DatasetChoice, output, row.settings),
        row.data,
        (("dataset", row.dataset), (flag, row.output)),
        (name,),
    )


COMMANDS: dict[str, Command] = {
    "demo": Command(
        "synco_hub.cli.demo:demo",
        "Draw fractals, pretrain a small ViT on them, measure it before and after, install it and show its attention.",
        "synco-hub demo --method moby --output-dir demo-moby",
        (options.DemoOptions,),
    ),
    "list": Command(
        "synco_hub.cli.list_models:list_models",
        "List the checkpoints of the zoo and the installed ones.",
        "synco-hub list --json",
        (options.ListOptions,),
    ),
    "pull": Command(
        "synco_hub.cli.checkpoints:pull",
        "Download a checkpoint, compare every file with the Hub's checksums, and install it whole or not at all.",
        "synco-hub pull synco-v2-deit-s --from ORGANISATION/synco-v2-deit-s --revision main",
        (options.PullOptions,),
    ),
    "publish": Command(
        "synco_hub.cli.checkpoints:publish",
        "Publish weights, image processor, model code, results and card as one commit.\n\n"
        "The text of README.md must be what `synco-hub card DIRECTORY` writes from facts and result files; words of "
        "your own go into a facts file (`synco-hub card DIRECTORY --facts FILE.yaml`). The weights must be those of "
        "config.json.",
        "synco-hub publish runs/first --repo-id ORGANISATION/NAME --private --dry-run",
        (options.PublishOptions,),
    ),
    "publish-space": Command(
        "synco_hub.cli.checkpoints:publish_space",
        "Stage the page with its header, third-party requirements and this project's packages, and publish it.",
        "synco-hub publish-space --dry-run --output staged-space",
        (options.PublishSpaceOptions,),
    ),
    "card write": Command(
        "synco_hub.cli.card:write",
        "Write README.md and .eval_results anew from what lies in the directory.\n\n"
        "`synco-hub card DIRECTORY` is the same; `synco-hub card verify DIRECTORY` measures its numbers again.",
        "synco-hub card runs/first --licence apache-2.0",
        (options.CardOptions,),
    ),
    "card verify": Command(
        "synco_hub.cli.card:verify",
        "Compare the card with its result files, measure again what can be measured here, and compare that too.\n\n"
        "Exit code 1 where anything differs, or where nothing could be measured.",
        "synco-hub card verify runs/first --tolerance 0.3",
        (options.CardVerifyOptions, ForwardSettings),
    ),
    "pretrain": Command(
        "synco_hub.cli.processes:pretrain",
        "Pretrain SynCo-v2, MoBY or BYOL on your images.",
        "synco-hub pretrain --method synco-v2 --backbone deit-s --dataset ./photographs --output-dir runs/first",
    ),
    "linear-probe": Command(
        "synco_hub.cli.processes:linear_probe",
        "Train a linear classifier on frozen features (paper 7.5).",
        "synco-hub linear-probe --model synco-v2-deit-s --dataset ./photographs --output-dir runs/probe",
    ),
    "fine-tune": Command(
        "synco_hub.cli.processes:fine_tune",
        "Adapt all weights to labelled images (paper 7.6).",
        "synco-hub fine-tune --model synco-v2-deit-s --dataset ./photographs --output-dir runs/fine-tuned",
    ),
    "ablate": Command(
        "synco_hub.cli.ablate:ablate",
        "Compare methods on matched budgets; finished runs are kept, so the same command continues after a stop.\n\n"
        "Further flags go to every run as they are (`synco-hub pretrain --help`). Defaults are those of the "
        "demonstration.",
        "synco-hub ablate --methods moby,byol,synco-v2 --equal-time --seeds 3 --max-steps 600 --output-dir ablation",
        (options.AblateOptions, DatasetChoice),
        further=True,
    ),
    "data list": Command(
        "synco_hub.cli.data:list_datasets",
        "List every data set of the paper by the name that --dataset takes.",
        "synco-hub data list --json",
        (options.DataListOptions,),
    ),
    "data verify": Command(
        "synco_hub.cli.data:verify",
        "Compare images, classes, their order and the splits with the catalog; exit code 1 where they differ.\n\n"
        "Without --data-dir the Hub copy is downloaded.",
        "synco-hub data verify imagenet-a --data-dir ~/imagenet-a",
        (options.DataVerifyOptions, DatasetChoice),
        only=_OTHER_THAN_DATASET,
    ),
    "data prepare": Command(
        "synco_hub.cli.data:prepare",
        "Write any data set as parquet files that stream well; images keep their bytes, a stopped run continues.",
        "synco-hub data prepare ./photographs --output ./photographs-parquet --shard-size 256MB",
        (options.DataPrepareOptions, DatasetChoice),
        only=_OTHER_THAN_DATASET,
    ),
    "data duplicates": Command(
        "synco_hub.cli.duplicates:find",
        "Find pictures that are there twice, exactly or nearly, in a data set or in both of two; without a model.\n\n"
        "Nearly: compressed, cut by a tenth, resized, mirrored. How alike such copies are is measured on pictures of "
        "the set; in a group every pair was compared.",
        "synco-hub data duplicates ./photographs --output duplicates.json --figure duplicates.png",
        (options.DuplicatesOptions, DatasetChoice),
        only=_DATASET_OF_DUPLICATES,
    ),
    **{f"evaluate {name}": _evaluation(name, row) for name, row in EVALUATORS.items()},
    "evaluate all": Command(
        "synco_hub.cli.evaluate:evaluate_all",
        "Every protocol that needs no training and that model and data allow, on every data set given.\n\n"
        "Each result is saved at once; what fails ends only itself, with exit code 1 in the end.",
        "synco-hub evaluate all --model runs/probe --dataset fractals ./photographs --output-dir results",
        (options.EvaluateAllOptions, ForwardSettings),
    ),
    "embed": Command(
        "synco_hub.cli.embeddings:embed",
        "Write the frozen features of every image, with the images' names, as a table.\n\n"
        "`datasets`, pandas and polars read it. A stopped command goes on where it was.",
        "synco-hub embed --model synco-v2-vit-nano --dataset ./photographs --output photographs.parquet",
        (options.EmbedOptions, DatasetChoice, EmbeddingSettings),
    ),
    "search": Command(
        "synco_hub.cli.embeddings:find_similar",
        "Find the pictures of an embedded data set that are most like yours.",
        "synco-hub search dog.jpg --in photographs.parquet --count 8 --figure similar.png",
        (options.SearchOptions,),
    ),
    "results table": Command(
        "synco_hub.cli.results:table",
        "One table a protocol; the paper's rows (Tables 12, 13 and 14) stand beside ours.",
        "synco-hub results table runs results.json --format csv --output comparison.csv",
        (options.TableOptions,),
    ),
    "attention": Command(
        "synco_hub.cli.attention:attention",
        "Draw what one or several checkpoints attend to in one or several images (paper section 12).\n\n"
        "One ViT and one image give the input, both attention maps and every head. Anything else gives a grid as in "
        "Figures 6 to 15: a row for each image, columns for each model.",
        "synco-hub attention --model synco-v2-vit-nano moby-vit-nano --image dog.jpg cat.jpg",
        (options.AttentionOptions,),
    ),
    "convert": Command(
        "synco_hub.cli.checkpoints:convert",
        "Convert a checkpoint of the synco-v2 authors, MoBY, MoCo-v3, DINO, timm, or a stock ViT or Swin.\n\n"
        "No code in the file is run: pickles are read as plain data. Every tensor is carried over, or dropped for a "
        "reason that conversion_report.json lists; anything else is an error and nothing is written.",
        "synco-hub convert synco_v2_vit_small.pth --output synco-v2-deit-s",
        (options.ConvertOptions,),
    ),
    "average": Command(
        "synco_hub.cli.checkpoints:average",
        "Look for weights between two checkpoints that know the new domain and have not forgotten the old.\n\n"
        "k-NN on both domains at eleven points of the line between them; the point is chosen on held-out training "
        "images, by a rule that average.json says, and reported on test images.",
        "synco-hub average synco-v2-vit-nano runs/continued --keep-dataset fractals --output runs/average",
        (options.AverageOptions, ForwardSettings),
    ),
    "export": Command(
        "synco_hub.cli.checkpoints:export",
        "Export a backbone or classifier so that it loads without this package or remote code.\n\n"
        "What was written is loaded again and its features are compared with the checkpoint's before it gets its "
        "place.",
        "synco-hub export synco-v2-vit-nano --format onnx --output vit-nano-onnx",
        (options.ExportOptions,),
    ),
    "robustness-demo": Command(
        "synco_hub.cli.robustness_demo:robustness_demo",
        "Train a linear classifier on fractals; show its accuracy under 15 corruptions and 7 attacks as table and "
        "figure.\n\nWhat is finished in the output folder is not done again.",
        "synco-hub robustness-demo --output-dir robustness",
        (options.RobustnessDemoOptions,),
    ),
    "space": Command(
        "synco_hub.cli.processes:space",
        "Open a page that shows what up to three models look at in your pictures.\n\n"
        "Without --models every installed checkpoint is on offer; where none is, an untrained network that says so.",
        "synco-hub space --port 7860 --models synco-v2-vit-nano moby-vit-nano",
        (options.SpaceOptions,),
    ),
}
GROUPS = {
    "card": "Write the card of a checkpoint (`card DIR`), or measure its numbers again (`card verify DIR`).",
    "data": "The data sets of the paper.",
    "evaluate": "Measure a frozen model by one of the paper's protocols.",
    "results": "Compare results with each other and with the paper.",
}


def main() -> None:
    """Entry point of the console script."""
    words = sys.argv[1:]
    if "--debug" in words:
        words.remove("--debug")
        os.environ[DEBUG_VARIABLE] = "1"
    with report_errors():
        try:
            code = run(words)
        except FlagError as error:
            print(f"error: {error}", file=sys.stderr)
            code = USAGE_ERROR
    sys.exit(code)


def run(words: Sequence[str]) -> int:
    """Run a command line and give its exit code."""
    if words and words[0] == "--version":
        print(__version__)
        return 0
    name, rest = _find_command(list(words))
    if name not in COMMANDS:
        print(_format_overview(name), end="")
        return 0 if rest else USAGE_ERROR
    command = COMMANDS[name]
    if not command.options:
        return resolve(command.function)(rest) or 0
    values = build_parser(name).parse(rest, command.further)
    return resolve(command.function)(*command.given, *values) or 0


def build_parser(name: str) -> Any:
    """The `FlagParser` of a command of the table that has flags of its own."""
    command = COMMANDS[name]
    # With it comes `transformers`, a second that commands which pass their flags on need not spend.
    return resolve("synco_hub.flag_parser:FlagParser")(
        command.options,
        only={} if command.only is None else {DatasetChoice: command.only},
        defaults=dict(command.defaults),
        prog=f"synco-hub {name}",
        description=command.summary,
        epilog=f"Example:\n\n  {command.example}",
    )


def _find_command(words: list[str]) -> tuple[str, list[str]]:
    """The command or the group that the first words name ("" for all), and the rest."""
    if not words or words[0] in HELP:
        return "", words
    first, *rest = words
    if first in COMMANDS:
        return first, rest
    if first not in GROUPS:
        raise FlagError(_unknown(first, [name.split()[0] for name in COMMANDS], ""))
    if not rest or rest[0] in HELP:
        return first, rest
    if f"{first} {rest[0]}" in COMMANDS:
        return f"{first} {rest[0]}", rest[1:]
    if first == "card":
        return "card write", rest
    raise FlagError(_unknown(rest[0], [name.split()[1] for name in _list_commands(first)], f"{first} "))


def _unknown(word: str, known: Sequence[str], group: str) -> str:
    return f"there is no command {group + word!r}: `synco-hub {group}--help` lists them.{suggest(word, known)}"


def _list_commands(group: str) -> Mapping[str, Command]:
    return {name: command for name, command in COMMANDS.items() if name.startswith(f"{group} ")}


def _format_overview(group: str) -> str:
    """The help of a group, or of everything: a line for each command."""
    commands = {name.removeprefix(f"{group} "): row for name, row in (_list_commands(group) or COMMANDS).items()}
    width = max(map(len, commands))
    lines = [f"usage: {f'synco-hub {group}'.strip()} COMMAND [--flag value ...]", "", GROUPS.get(group, ABOUT), ""]
    lines += [f"  {name:<{width}}  {row.summary.partition(chr(10))[0]}" for name, row in commands.items()]
    lines += ["", "Example:", "", f"  {next(iter(commands.values())).example}", ""]
    return "\n".join([*lines, "Every command shows its flags by --help; with --debug the traceback of an error.", ""])


if __name__ == "__main__":
    main()
