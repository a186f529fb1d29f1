"""Start-up time: what `import videoms_hf` adds, and building a ViT-B for pre-training, compared with VideoMAE.

python scripts/benchmarks/startup.py --repeats 5 --output startup.json

Processor seconds on one thread, each measured in a new process; medians of interleaved rounds.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Sequence

from report import parser, write_report


BASE = "import torch; from transformers import AutoModel, PreTrainedModel, VideoMAEConfig, VideoMAEForPreTraining"
STAGES = {  # name -> (statements before, timed statements)
    "import torch and transformers' base": ("", BASE),
    "import videoms_hf after that": (BASE, "import videoms_hf"),
    "build VideoMS ViT-B": (
        f"{BASE}; from videoms_hf import VideoMSConfig, VideoMSForPreTraining",
        "VideoMSForPreTraining(VideoMSConfig())",
    ),
    "build VideoMAE ViT-B": (BASE, "VideoMAEForPreTraining(VideoMAEConfig())"),
}


def measure(before: str, timed: str) -> float:
    """Processor seconds of the statements `timed`, run after `before` in a fresh process."""
    code = f"import time; {before}\nstart = time.process_time(); {timed}\nprint(time.process_time() - start)"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return float(result.stdout)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=5)
    args = options.parse_args(arguments)
    times = {name: [] for name in STAGES}
    for _ in range(args.repeats):
        for name, stage in STAGES.items():
            times[name].append(measure(*stage))
    medians = {name: statistics.median(values) for name, values in times.items()}
    rows = [{"what": name, "s": value} for name, value in medians.items()]
    rows.append(
        {"what": "speed-up of building", "s": medians["build VideoMAE ViT-B"] / medians["build VideoMS ViT-B"]}
    )
    write_report(rows, args.output, arguments)


if __name__ == "__main__":
    main()
