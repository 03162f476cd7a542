"""docs/slime-flags.md, from the table.

python -m controlplane.jobs.flags.document > docs/slime-flags.md
"""

import json
from collections import Counter

from controlplane.jobs.flags.flag import Flag, Kind
from controlplane.jobs.flags.table import GROUPS, TABLE

_INTRODUCTION = """\
# slime's flags

A slime launch script becomes a job by its command line. In the script, put `rollway train --` in the place of
`ray job submit … -- python3 train.py`, and the shell fills in the rest:

```bash
rollway train -- \\
   --actor-num-nodes 1 --actor-num-gpus-per-node 8 --rollout-num-gpus 8 \\
   ${MODEL_ARGS[@]} ${CKPT_ARGS[@]} ${ROLLOUT_ARGS[@]} ${OPTIMIZER_ARGS[@]} ${GRPO_ARGS[@]} \\
   ${PERF_ARGS[@]} ${EVAL_ARGS[@]} ${SGLANG_ARGS[@]} ${MISC_ARGS[@]}
```

`rollway train --argv-file run.sh` reads the flags out of a script, or of arrays that were cut from one (`-` is stdin):
arrays, assignments, comments, `${NAME[@]}`, `$((…))`, `$(seq …)` and loops that count are understood, redirections left
out, and variables of your environment filled in: `BASE_DIR=/data rollway train --argv-file run.sh`. A value that only a
shell can fill in is refused, unless its flag is ignored, and so is one that is set in a branch, or behind `&&` or `||`.

`POST /v1/jobs` takes the same words as `{"argv": ["--num-rollout", "100", …]}`; its reply has `notices`, and a refused
flag is a 422 that names it. The `env_vars` of a pasted `--runtime-env-json` become `runtime.env_vars`, its `PYTHONPATH`
`runtime.python_path`. What a pasted command ends with (`2>&1 | tee log`) is left out, and a notice says so.

`rollway explain -- <flags>` says beforehand what becomes of everything: the resolved spec, which flag set what, what is
ignored and why, what is refused.

The rules:

- **Nothing is dropped.** Every flag is set, ignored for a reason that is told, or refused. An unknown or abbreviated
  one is refused with the nearest known name. Of a flag that is given twice the last one holds, and a notice says so.
- **slime's defaults hold** where a command line is given, also where a spec has others. Of two that slime leaves to
  Megatron a notice tells instead: dropout is 0, not 0.1, and without a batch size a step has all samples of a rollout.
- **`--sglang-X`** is SGLang's option X, and becomes `engine.sglang.X`. Options that the system sets are refused with
  the flag or field that decides them.
- **`--router-X`** is sglang-router's option X. A job's router is set up by the system: what could only change its speed
  or its reports is ignored, what asks for something else is refused.
- **Every other flag is Megatron's** and becomes `trainer.megatron.*` with its type and choices checked. Facts about the
  model (`--num-layers`, `--hidden-size`, …) are kept and compared with `config.json` when the job starts: a
  contradiction ends it with the name of the field. Options that this trainer does not read are ignored with the reason,
  those that it cannot honour are refused.
- The options are those of the releases that Rollway is pinned to. `rollway manifest` writes down those of what is
  installed instead, with `--python-path` those of a Megatron-LM of your own; the API reads them when it starts.

What the columns say: **same**, a field of the same name does the same; **renamed**, a field of another name does;
**differs**, it has an effect, and the last column says how it differs from slime's or when it applies; **ignored**,
accepted without effect; **refused**, the job is not accepted with it. A default is slime's own.
"""


def document() -> str:
    counts = Counter(flag.kind for flag in TABLE.values())
    summary = ", ".join(f"{counts[kind]} {kind}" for kind in Kind)
    parts = [_INTRODUCTION, f"{len(TABLE)} flags: {summary}.\n"]
    for title, flags in GROUPS.items():
        rows = "\n".join(_row(flag) for flag in flags)
        parts.append(f"## {title}\n\n| flag | takes | default | | field | |\n|---|---|---|---|---|---|\n{rows}\n")
    return "\n".join(parts)


def _row(flag: Flag) -> str:
    default = "" if flag.default is None else f"`{json.dumps(flag.default)}`"
    fields = "<br>".join(f"`{field}`" for field in flag.fields)
    return f"| `{flag.name}` | {flag.takes} | {default} | {flag.kind} | {fields} | {flag.why} |"


if __name__ == "__main__":
    print(document(), end="")
