"""Check this machine: library versions, device, decoding and training speed, disk space; with suggestions.

videoms doctor
videoms doctor --output_dir /data/runs --seconds 10
"""

import sys
from collections.abc import Sequence

from videoms_hf.command_line import CommandParser, run
from videoms_hf.doctor import examine, report


def main(arguments: Sequence[str] | None = None) -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--output_dir", default=".", help="folder whose free disk space is checked")
    parser.add_argument("--seconds", type=float, default=3.0, help="duration of each measurement")
    args = parser.parse_args(arguments)
    print(report(examine(args.output_dir, args.seconds)))


if __name__ == "__main__":
    sys.exit(run(main))
