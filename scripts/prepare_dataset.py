"""Convert a benchmark's own files to lists or shards for training, and optionally re-encode its videos.

videoms prepare ucf101 --annotations ucfTrainTestlist --videos UCF-101 --output_dir data/ucf101
videoms prepare kinetics --annotations lists --videos k400 --output_dir data/k400 --form tar --short_side 256 --gop 16
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from videoms_hf.command_line import parse_recipe, run
from videoms_hf.data.official_annotations import BENCHMARKS, benchmark_tables
from videoms_hf.data.preparation import FORMS, REPORT_FILE, prepare_dataset, summary
from videoms_hf.data.transcoding import Encoding


@dataclass
class PreparationArguments:
    """Which data set, from where, to where, and whether its videos are re-encoded."""

    benchmark: str = field(metadata={"help": "`--benchmark` may be omitted in front.", "choices": list(BENCHMARKS)})
    annotations: str = field(metadata={"help": "Folder of the annotation files (`folders`: of train, val, test)."})
    output_dir: str = field(metadata={"help": "Folder to write to; the same command resumes."})
    videos: str | None = field(default=None, metadata={"help": "Folder of the videos."})
    split: int = field(default=1, metadata={"help": "Split of UCF101 and HMDB51, 1 to 3."})
    max_missing_share: float | None = field(
        default=None, metadata={"help": "Fraction of videos that may be missing; default: 0.2 for Kinetics, else 0."}
    )
    form: str = field(default="csv", metadata={"help": "Lists of paths (csv) or shards.", "choices": list(FORMS)})
    shard_megabytes: int = field(default=256, metadata={"help": "Size of a shard, MB."})
    num_workers: int = field(default=2, metadata={"help": "Processes that check and encode videos; 0: none."})
    encode: bool = field(default=False, metadata={"help": "Re-encode even if none of the options below is set."})
    short_side: int | None = field(default=None, metadata={"help": "Re-encode: maximum short side, pixels."})
    fps: float | None = field(default=None, metadata={"help": "Re-encode: maximum frame rate."})
    gop: int | None = field(default=None, metadata={"help": "Re-encode: frames between key frames; default: 16."})
    crf: int | None = field(default=None, metadata={"help": "Re-encode: H.264 quality, lower is better; default: 20."})
    fastdecode: bool = field(default=False, metadata={"help": "Re-encode: larger files that decode faster."})

    def encoding(self) -> Encoding | None:
        """How to re-encode the videos; `None`: not at all."""
        given = {name: getattr(self, name) for name in ("short_side", "fps", "gop", "crf", "fastdecode")}
        given = {name: value for name, value in given.items() if value not in (None, False)}
        return Encoding(**given) if given or self.encode else None


def main(arguments: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in BENCHMARKS:
        words.insert(0, "--benchmark")
    (args,) = parse_recipe(PreparationArguments, arguments=words, description=__doc__)
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    encoding = args.encoding()
    tables = benchmark_tables(
        args.benchmark, args.annotations, args.videos, args.split, args.max_missing_share, missing_folder=output_dir
    )
    report = prepare_dataset(
        tables,
        output_dir,
        args.form,
        encoding,
        args.num_workers,
        args.shard_megabytes,
        {"benchmark": args.benchmark, "split": args.split, "shard_megabytes": args.shard_megabytes},
    )
    print(summary(report))
    print(f"Written to {output_dir}; {REPORT_FILE} has the totals and the videos that were left out")


if __name__ == "__main__":
    sys.exit(run(main))
