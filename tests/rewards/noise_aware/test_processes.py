import os
import subprocess
import sys
from pathlib import Path

import torch
from helpers.noise_aware import STORAGES, trained

SCRIPT = """
import sys
from pathlib import Path
import torch
from accelerate import Accelerator
from helpers.noise_aware import brightness_reward
from rewards.noise_aware.recording import Recording
from apps.training.noise_aware.training import NoiseAwareTraining, train

folder, storages = Path(sys.argv[1]), sys.argv[2:]
accelerator = Accelerator(cpu=True)
for storage in storages:
    config = NoiseAwareTraining(storage=storage, rank=2, steps_per_phase=3, joint_steps=3,
        batch_prompts=2, save_every=2, held_out=0.25, learning_rate=1e-2)
    weights = train(brightness_reward(), Recording(folder / "recording"), folder / storage, config,
        accelerator=accelerator)
    torch.save(weights.state_dict(), folder / f"{storage}-{accelerator.process_index}.pt")
assert accelerator.num_processes == 2
accelerator.end_training()
"""


def test_two_processes_keep_equal_weights_and_do_what_one_does(recording, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[3]
    paths = [str(root), str(root / "tests")]
    # On CPUs `accelerate launch` starts several processes by MPI only.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", str(script), str(tmp_path), *STORAGES]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for storage in STORAGES:
        ours, theirs = (
            torch.load(tmp_path / f"{storage}-{rank}.pt", weights_only=True) for rank in range(2)
        )
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        # Both halves of a batch together are the batch of one process.
        config = {"batch_prompts": 4, "learning_rate": 1e-2}
        expected = trained(recording, tmp_path / f"one-{storage}", storage, **config, joint_steps=3)
        for key, value in expected.state_dict().items():
            torch.testing.assert_close(ours[key], value, rtol=0, atol=1e-4)
