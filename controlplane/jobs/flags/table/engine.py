"""The engines, their router, and how weights reach them. ``--sglang-X`` is SGLang's option X."""

from controlplane.jobs.flags.flag import FLOAT, INT, ON, TEXT, TEXTS, differs, ignored, maps, one_of, refused

_ROUTER = "every job has a router of its own"
_OTHER_ROUTER = "requests are spread by sglang-router, and token ids are kept from end to end anyway"
_ONE_KIND = "not supported yet: a job has engines of one kind"
_DELTA = "not supported yet: weights are sent whole, over the network"

FLAGS = (
    maps("--sglang-server-concurrency", INT, "engine.max_concurrency", 512),
    differs("--sglang-dtype", TEXT, "engine.dtype", "`half` and `float` are float16 and float32"),
    differs(
        "--sglang-enable-ep-moe",
        ON,
        "engine.sglang.ep_size",
        "SGLang has dropped it: the expert-parallel size becomes `--rollout-num-gpus-per-engine`",
    ),
    differs(
        "--sglang-enable-deepep-moe",
        ON,
        "engine.sglang.moe_a2a_backend",
        "SGLang has dropped it: the all-to-all backend becomes `deepep`",
    ),
    refused("--sglang-router-ip", TEXT, f"not supported yet: {_ROUTER}"),
    refused("--sglang-router-port", INT, f"not supported yet: {_ROUTER}"),
    maps("--sglang-router-request-timeout-secs", INT, "engine.request_timeout_s"),
    refused("--sglang-config", TEXT, _ONE_KIND),
    refused("--prefill-num-servers", INT, _ONE_KIND),
    ignored("--use-slime-router", ON, _OTHER_ROUTER),
    ignored("--slime-router-timeout", FLOAT, _OTHER_ROUTER),
    ignored("--slime-router-max-connections", INT, _OTHER_ROUTER),
    ignored("--slime-router-health-check-failure-threshold", INT, _OTHER_ROUTER),
    ignored("--radix-tree-max-size", INT, _OTHER_ROUTER),
    refused("--slime-router-middleware-paths", TEXTS, "not supported: there is no router to put it into"),
    ignored("--rollout-num-process", INT, "one process sends all requests"),
    ignored("--use-distributed-post", ON, "one process sends all requests"),
    ignored("--use-http2", ON, "requests go over HTTP/1.1, on connections that are kept"),
    refused("--http-proxy", TEXT, "set http_proxy in runtime.env_vars (--train-env-vars)"),
)

SYNC = (
    differs("--update-weight-buffer-size", INT, "sync.bucket_mb", "bytes here, MiB there", 512 * 1024**2),
    differs("--update-weights-interval", INT, (), "1, which is always so; another number is not supported yet", 1),
    differs(
        "--update-weight-mode", one_of("full", "delta"), (), "full, which is always so; delta is not supported yet"
    ),
    differs("--update-weight-transport", one_of("nccl", "disk"), (), "nccl; disk is not supported yet", "nccl"),
    differs("--flush-cache-interval", INT, (), "1, which is always so; another number is not supported yet", 1),
    refused("--update-weight-disk-dir", TEXT, _DELTA),
    refused("--update-weight-disk-keep-files", ON, _DELTA),
    refused("--update-weight-delta-dir", TEXT, _DELTA),
    refused("--update-weight-delta-encoding", TEXT, _DELTA),
    refused("--update-weight-delta-checksum", TEXT, _DELTA),
    refused("--update-weight-encoding", TEXT, _DELTA),
    refused("--update-weight-local-checkpoint-dir", TEXT, _DELTA),
    refused("--custom-update-weight-post-write-path", TEXT, _DELTA),
    refused("--check-weight-update-equal", ON, "not supported yet"),
)
