"""Publish a model folder on the Hub: weights, processor, code, card, recipe, training log and evaluation.

videoms publish runs/mine someone/videoms-mine --evaluation runs/evaluation/evaluation.json
videoms publish runs/mine someone/videoms-mine --dry_run      (writes the card, uploads nothing)

--space also uploads a demo for the browser, which shows the model's kept tokens and answers.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from videoms_hf.command_line import CommandParser, run
from videoms_hf.hub import publish, publish_space, write_card
from videoms_hf.hub.publish import adopt_evaluation, contents, space_contents


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("folder", type=Path, help="folder written by training, conversion or save_pretrained")
    parser.add_argument("repo_id", help="name on the Hub: someone/videoms-mine")
    parser.add_argument("--evaluation", type=Path, help="evaluation.json of this model, written by `videoms evaluate`")
    parser.add_argument("--data", help='data set for the card: "UCF101, split 1"')
    parser.add_argument("--license", help="licence of the weights, by its Hub identifier: cc-by-nc-4.0")
    parser.add_argument("--base_model", help="Hub name of the model that this one was derived from")
    parser.add_argument("--local_paths", action="store_true", help="keep local paths, not only file names")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    parser.add_argument("--revision", help="branch to commit to; default: main")
    parser.add_argument("--commit_message", default="Upload model", help="message of the commit")
    parser.add_argument("--space", help="also publish a demo of the model as this Gradio Space: someone/videoms-demo")
    parser.add_argument("--dry_run", action="store_true", help="write the card and list the files, but upload nothing")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    facts = {
        "local_paths": args.local_paths,
        "data": args.data,
        "license": args.license,
        "base_model": args.base_model,
    }
    if args.dry_run:
        if args.evaluation is not None:
            adopt_evaluation(args.folder, args.evaluation)
        card = write_card(args.folder, name=args.repo_id, **facts)
        print(f"Would be published, with the card in {card}:")
        for operation in contents(args.folder, args.local_paths):
            is_redacted = isinstance(operation.path_or_fileobj, bytes)
            print(f"  {operation.path_in_repo}{' (without local paths)' if is_redacted else ''}")
        if args.space:
            print(f"and to the Space {args.space}: {len(space_contents())} files, the app and this package")
        return
    commit = publish(
        args.folder,
        args.repo_id,
        evaluation=args.evaluation,
        private=args.private,
        revision=args.revision,
        commit_message=args.commit_message,
        **facts,
    )
    print(f"Published: {commit.commit_url}")
    if args.space:
        model = commit.repo_url.repo_id
        print(f"Published: {publish_space(args.space, model, args.private).commit_url}")
        if args.private:
            print(f"{model} is private: give the Space a secret HF_TOKEN that may read it")


if __name__ == "__main__":
    sys.exit(run(main))
