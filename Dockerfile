# One image for every service; compose.yaml says which one a container runs.
# Behind a mirror: docker compose build --build-arg BASE_IMAGE=... --build-arg PIP_INDEX_URL=...
ARG BASE_IMAGE=python:3.12-slim

FROM ${BASE_IMAGE} AS build
ARG PIP_INDEX_URL=
ARG PIP_EXTRA_INDEX_URL=
# For a CPU image name an index that has CPU builds of torch in TORCH_INDEX_URL; empty takes PIP_INDEX_URL.
ARG TORCH_INDEX_URL=
ARG TORCH=torch>=2.11
RUN python -m venv /opt/quire
ENV PATH=/opt/quire/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# An empty PIP_INDEX_URL must not reach pip: it would be taken for an index.
RUN if [ -z "$PIP_INDEX_URL" ]; then unset PIP_INDEX_URL; fi; \
    if [ -z "$PIP_EXTRA_INDEX_URL" ]; then unset PIP_EXTRA_INDEX_URL; fi; \
    pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "$TORCH"
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY quire quire
COPY services services
COPY shared shared
COPY kernels kernels
COPY bench bench
RUN if [ -z "$PIP_INDEX_URL" ]; then unset PIP_INDEX_URL; fi; \
    if [ -z "$PIP_EXTRA_INDEX_URL" ]; then unset PIP_EXTRA_INDEX_URL; fi; \
    pip install . && python -m compileall -q /opt/quire
# Kernels for every instruction set, since the image has no compiler; without them it computes with torch's.
RUN (apt-get update && apt-get install -y --no-install-recommends g++ \
    && cd / && python -m quire.kernels.cpu.native) || echo "quire: this image has no native kernels" >&2

FROM ${BASE_IMAGE}
RUN groupadd --gid 10001 quire && useradd --uid 10001 --gid quire --no-create-home --home-dir /tmp quire \
    && install -d -m 0700 -o quire -g quire /run/quire /hub
COPY --from=build /opt/quire /opt/quire
# On a GPU Triton builds what launches its kernels with a C compiler, at the first start.
RUN ! /opt/quire/bin/python -c "import torch, sys; sys.exit(torch.version.cuda is None)" \
    || (apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*)
ENV PATH=/opt/quire/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    QUIRE_RUN_DIR=/run/quire \
    HF_HOME=/hub
USER quire
WORKDIR /tmp
VOLUME ["/run/quire", "/hub"]
EXPOSE 8000
ENTRYPOINT ["quire"]
CMD ["serve", "--host", "0.0.0.0"]
