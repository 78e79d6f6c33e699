#!/bin/bash
# Several nodes under Slurm: one launcher a node, one process a GPU. From the folder that holds runs/:
#   sbatch slurm.sh synco-v2-vit-l imagenet-1k
# Nodes must share --output-dir: every process writes its random state there. TERM reaches the run two minutes before
# the end of the time; it saves, stops, and the next job of the chain (sbatch --dependency=singleton) continues.
#SBATCH --job-name=synco-hub
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
set -euo pipefail
recipe=$1
dataset=$2
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=4
# exec: the signal goes to the launcher, which hands it on to the processes.
exec srun python -m torch.distributed.run \
    --nnodes="$SLURM_NNODES" --nproc-per-node=4 \
    --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$head_node:29500" \
    --module trainers.pretrain --recipe "$recipe" --dataset "$dataset" --bf16 --resume \
    --output-dir "runs/$recipe"
