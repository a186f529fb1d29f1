#!/usr/bin/env bash
# Several machines under Slurm, one torchrun on each:
#   sbatch --nodes 8 scripts/accelerate/slurm.sh -m videoms_hf pretrain kinetics400/pretrain \
#       --gradient_accumulation_steps 1 --per_device_train_batch_size 32
# The output folder must be on storage that all machines share. After a time limit or a crash, submit the same command:
# it resumes from the newest complete checkpoint (--requeue lets Slurm do that after a preemption).
#SBATCH --job-name=videoms
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=%x-%j.log
set -euo pipefail
cd "$SLURM_SUBMIT_DIR"
source .venv/bin/activate
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=1
srun torchrun \
    --nnodes "$SLURM_NNODES" \
    --nproc_per_node "${SLURM_GPUS_ON_NODE:-8}" \
    --rdzv_id "$SLURM_JOB_ID" \
    --rdzv_backend c10d \
    --rdzv_endpoint "$head_node:29500" \
    "$@"
