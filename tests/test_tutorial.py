"""docs/tutorial.md: every block runs as it stands, against a hub on this machine."""

import json
import os
import sys
from pathlib import Path

from tests.hub_server import TOKEN, running_hub
from tests.processes import run_program
from tests.test_docs import TUTORIAL, blocks, commands


# The address of the hub must be set before the client is imported, hence a process of its own.
RUNNER = """
import json, sys
from videoms_hf.__main__ import main

names = {"__name__": "__main__"}
for language, content in json.loads(sys.argv[1]):
    if language == "python":
        exec(compile(content, "tutorial.md", "exec"), names)
        continue
    for words in content:
        assert words[0] == "videoms", words
        try:
            main(words[1:])
        except SystemExit as end:
            assert not end.code, words
"""


def test_the_tutorial_leads_from_clips_to_a_published_model(tmp_path):
    steps = [
        (b.language, b.code if b.language == "python" else commands(b.code))
        for b in blocks(TUTORIAL, "python", "bash")
    ]
    assert len(steps) >= 10 and not any(block.reason for block in blocks(TUTORIAL, "python", "bash"))
    with running_hub() as hub:
        variables = {**os.environ, "HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "cache")}
        variables |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"}
        done = run_program([sys.executable, "-c", RUNNER, json.dumps(steps)], cwd=tmp_path, env=variables)
        assert done.returncode == 0, f"{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
        files = hub.files("someone/videoms-motions")
    assert {"README.md", "model.safetensors", "config.json", "recipe.yaml", "evaluation.json"} <= set(files)
    assert "the model explains" in done.stderr + done.stdout  # what the page says of so few steps
    assert "chance 12.5%" in done.stdout and "Published: " in done.stdout
    assert {path.name for path in tmp_path.iterdir()} >= {
        "clips",
        "scan",
        "runs",
        "predictions.csv",
        "kept_tokens.png",
    }
    written = json.loads((Path(tmp_path) / "runs" / "evaluation" / "evaluation.json").read_text())
    assert len(written["videos"]) == 16
