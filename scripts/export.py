"""Export a classifier to ONNX, with a free batch size and keep ratio, and compare it with torch.

videoms export --model runs/mine --output_dir onnx
videoms export --model someone/videoms-mine --output_dir onnx --keep_ratio 0.4
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from videoms_hf.command_line import CommandParser, run
from videoms_hf.conversion.to_onnx import MODEL_FILE, PREPROCESSING_FILE, export_onnx
from videoms_hf.evaluation.classifier import load_classifier, load_processor


def main(arguments: Sequence[str] | None = None) -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--model", required=True, help="fine-tuned classifier: a folder or a Hub name")
    parser.add_argument("--output_dir", type=Path, required=True, help=f"new folder for {MODEL_FILE}")
    parser.add_argument("--format", choices=("onnx",), default="onnx", help="format of the result")
    parser.add_argument(
        "--keep_ratio", type=float, help="fraction of kept tokens to name in the JSON; default: the model's"
    )
    args = parser.parse_args(arguments)
    if args.output_dir.exists() and any(args.output_dir.iterdir()):
        raise ValueError(f"output_dir is {args.output_dir}, which is not empty; it must be a new folder")
    model = load_classifier(args.model, keep_ratio=args.keep_ratio)
    found = export_onnx(model, load_processor(args.model), args.output_dir)
    compared = found["compared_with_torch"]
    print(f"{args.output_dir / MODEL_FILE}: inputs {', '.join(found['inputs'])}; outputs logits, kept_ids")
    print(
        f"onnxruntime's logits differ by at most {compared['largest_difference']:.1e} from torch's, at batch sizes "
        f"{compared['batch_sizes']} and keep ratios {compared['keep_ratios']}"
    )
    print(f"Preprocessing and classes: {args.output_dir / PREPROCESSING_FILE}")


if __name__ == "__main__":
    sys.exit(run(main))
