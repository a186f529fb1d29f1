"""List the recipes that ship with the package, or print one of them.

videoms recipes
videoms recipes ucf101/finetune > my_recipe.yaml
"""

import sys
from collections.abc import Sequence

from videoms_hf.command_line import CommandParser, recipe_file, recipe_names, run


def main(arguments: Sequence[str] | None = None) -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("recipe", nargs="?", help="name of the recipe to print")
    recipe = parser.parse_args(arguments).recipe
    if recipe is not None:
        print(recipe_file(recipe).read_text(encoding="utf-8"), end="")
        return
    for name in recipe_names():
        first_line = recipe_file(name).read_text(encoding="utf-8").splitlines()[0]
        print(f"{name:24}{first_line.removeprefix('# ')}")


if __name__ == "__main__":
    sys.exit(run(main))
