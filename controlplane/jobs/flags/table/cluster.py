"""Who trains and who generates."""

from controlplane.jobs.flags.flag import INT, ON, TOGGLE, differs, ignored, maps

_OWN_GPUS = "training and generation have GPUs of their own here and never take turns: nothing is offloaded"
_INVENTORY = "a job is placed by what the nodes of the cluster really have"
_CRITIC = "the critic shares the policy's GPUs"

FLAGS = (
    maps("--actor-num-nodes", INT, "resources.actor_num_nodes", 1),
    maps("--actor-num-gpus-per-node", INT, "resources.actor_num_gpus_per_node", 8),
    differs(
        "--rollout-num-gpus",
        INT,
        "resources.rollout_num_gpus",
        "required unless `--colocate` is given or nothing is generated",
    ),
    maps("--rollout-num-gpus-per-engine", INT, "resources.rollout_num_gpus_per_engine", 1),
    differs(
        "--colocate",
        ON,
        "resources.rollout_num_gpus",
        "as many GPUs generate as train, whatever `--rollout-num-gpus` says, but they are further ones: the job takes "
        "twice the GPUs that slime takes, and neither half waits for the other's memory",
    ),
    ignored("--offload", ON, _OWN_GPUS),
    ignored("--offload-train", TOGGLE, _OWN_GPUS),
    ignored("--offload-rollout", TOGGLE, _OWN_GPUS),
    ignored("--num-gpus-per-node", INT, _INVENTORY),
    ignored("--rollout-num-gpus-per-node", INT, _INVENTORY),
    ignored("--critic-num-nodes", INT, _CRITIC),
    ignored("--critic-num-gpus-per-node", INT, _CRITIC),
)
