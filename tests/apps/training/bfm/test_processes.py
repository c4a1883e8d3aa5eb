"""Two processes: shares of one batch, and equal weights."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from helpers.blockwise_training import by_hand, tiny

from apps.training.bfm.encoded import EncodedPictures

ROOT = Path(__file__).parents[4]
SCRIPT = """
import sys
from pathlib import Path
import torch
from accelerate import Accelerator
from helpers.blockwise_training import data_of, tiny, weights_after

folder, encoded = map(Path, sys.argv[1:])
accelerator = Accelerator(cpu=True, mixed_precision="no")
assert accelerator.num_processes == 2
config = tiny(frn_batch_size=6)
weights = weights_after(data_of(encoded), folder / "work", config)
torch.save(weights, folder / f"{accelerator.process_index}.pt")
accelerator.end_training()
"""


def test_two_processes_do_what_their_shares_say(
    data: EncodedPictures, encoded: Path, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    # On CPUs `accelerate launch` starts several processes by MPI only.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", str(script), str(tmp_path), str(encoded)]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = (torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(2))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    for key, value in by_hand(data, tiny(), processes=2).items():
        torch.testing.assert_close(ours[key], value, rtol=0, atol=1e-5)
