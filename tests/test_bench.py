"""The measurements measure what they say."""
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

BENCH = Path(__file__).parent.parent/"bench"
sys.path.insert(0, str(BENCH))


def test_what_a_way_gives_back_is_no_time():
    from bench import Took, in_turns
    cpu = torch.device("cpu")
    taken = in_turns({"a loss": lambda: 50., "slow": lambda: time.sleep(.05), "by itself": lambda: Took(7.)}, 2, cpu)
    assert max(taken["a loss"]) < .05 <= min(taken["slow"]) < 5 and taken["by itself"] == [7., 7.]


def test_a_stage_is_measured_and_kept(tmp_path):
    run = subprocess.run([sys.executable, BENCH/"bench.py", "--only", "lab", "--rounds", "1", "--out", tmp_path], text=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert run.returncode == 0, run.stderr
    results = json.loads((tmp_path/"results.json").read_text())
    assert [(row["stage"], row["way"]) for row in results["rows"]] == [(f"{what}, 256²", way) for what in ("RGB to Lab", "Lab to RGB") for way in ("usual", "ours", "ours, memory kept")]
    assert all(row["seconds"] > 0 for row in results["rows"]) and results["rows"][1]["times the usual"] > 1
    assert (tmp_path/"results.png").stat().st_size > 5000
