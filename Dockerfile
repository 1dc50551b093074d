# Three images, one recipe. The tag is the version of Ray, which has to be the same on every machine of a cluster.
#   docker build --target cpu      -t magdi-ray:2.60.0 .             head, debates, submitting
#   docker build --target cuda     -t magdi-ray-cuda:2.60.0 .        teachers, training and serving on GPUs
#   docker build --target launcher -t magdi-ray-launcher:2.60.0 .    the head of `ray up`: it asks a cloud for machines
# Every version is pinned: Python's packages by constraints.txt, CUDA's libraries by torch's own wheel.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    DS_BUILD_OPS=0 \
    PATH=/opt/magdi/bin:$PATH
WORKDIR /src
# deepspeed's set-up imports torch: it is installed after it, without a build environment of its own.
RUN python -m venv /opt/magdi && pip install --no-cache-dir setuptools==84.2.1 wheel==0.48.0
# What the package needs, before the package: a change of our code does not install torch again.
COPY constraints.txt pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; x = p['optional-dependencies']; \
print('\n'.join(p['dependencies'] + x['datasets'] + x['math']))" > needs.txt \
 && sed -n 's/^torch==//p' constraints.txt > torch.txt

FROM build AS build-cpu
RUN pip install --no-cache-dir --constraint constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu "torch==$(cat torch.txt)+cpu" \
 && pip install --no-cache-dir --constraint constraints.txt --no-build-isolation deepspeed \
 && pip install --no-cache-dir --constraint constraints.txt --requirement needs.txt
COPY README.md LICENSE ./
COPY magdi_ray magdi_ray
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

FROM build AS build-cuda
RUN pip install --no-cache-dir --constraint constraints.txt "torch==$(cat torch.txt)" \
 && pip install --no-cache-dir --constraint constraints.txt --no-build-isolation deepspeed \
 && pip install --no-cache-dir --constraint constraints.txt --requirement needs.txt bitsandbytes
COPY README.md LICENSE ./
COPY magdi_ray magdi_ray
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

FROM build-cpu AS build-launcher
# Without constraints.txt: boto3 asks for an older python-dateutil than was tested, which pandas takes as well.
RUN pip install --no-cache-dir boto3==1.44.5 google-api-python-client==2.202.0

FROM ${PYTHON_IMAGE} AS runtime
# wget: the operator's probes call it. rsync and ssh: `ray up`. Debian keeps one version of each a release: nothing to pin.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends openssh-client rsync wget \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 1000 --create-home --shell /bin/bash ray \
 && install --directory --owner ray --group ray /shared
ENV PATH=/opt/magdi/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    HF_HUB_DISABLE_TELEMETRY=1
COPY jobs /app/jobs
COPY configs /app/configs
COPY serve /app/serve
WORKDIR /app
# The image runs nodes, jobs and single commands. What is healthy differs: compose.yaml and the operator say it for nodes.
CMD ["magdi", "--help"]

FROM runtime AS launcher
COPY --from=build-launcher /opt/magdi /opt/magdi
USER 1000:1000

FROM runtime AS cuda
# torch's wheels bring CUDA, the machine brings the driver. Triton compiles what FlexAttention needs with a C compiler.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /opt/magdi /opt/magdi
USER 1000:1000

# The last target is what a build without --target gives.
FROM runtime AS cpu
COPY --from=build-cpu /opt/magdi /opt/magdi
USER 1000:1000
