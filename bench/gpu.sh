#!/bin/sh
# All that is measured on a GPU, in one command of under ten minutes; see bench/README.md.
#   bench/gpu.sh [--wheels DIR] [--python PYTHON] [--output DIR] [--device cpu --tiny] [--minutes N] [--only SECTION ...]
# --wheels: a folder of wheels with what the machine's own Python lacks; nothing is fetched. Of Python 3.10 or later with torch and
# triton (and a C compiler for it) it needs: httptools huggingface_hub jinja2 llguidance msgspec numpy packaging pyzmq safetensors
# starlette tokenizers transformers uvicorn uvloop, for the tests pytest (and pytest-xdist, if it is there). What is lacking is said first.
root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
wheels='' python=''
while :; do
    case "${1-}" in
    --wheels) wheels=$(cd "$2" && pwd) || exit 2; shift 2 ;;
    --python) python=$2; shift 2 ;;
    *) break ;;
    esac
done
if [ -z "$python" ]; then
    python=python3
    [ -x "$root/.venv/bin/python" ] && python=$root/.venv/bin/python
fi
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
if [ -n "$wheels" ]; then
    # Before the machine's own packages, all of which stay to be seen: torch and triton are never carried.
    site=$(mktemp -d) || exit 1
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$wheels"/*.whl || exit 1
    PYTHONPATH=$site:$PYTHONPATH
fi
export PYTHONPATH
"$python" "$root/bench/gpu/needs.py" || exit 2
export PYTHONUNBUFFERED=1 OPENBLAS_NUM_THREADS="${OPENBLAS_NUM_THREADS:-1}"
"$python" -m bench.gpu "$@"
