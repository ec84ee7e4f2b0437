# advcore in a container. No package index is named here: without an argument, pip uses its own.
#   docker build -t advcore .
#   docker run --rm -v "$PWD:/data" -w /data advcore run trades_gradmatch
# A build of torch for the CPU alone, or for another CUDA, comes from an index that you name:
#   docker build --build-arg TORCH_INDEX=URL -t advcore .
# A base image with CUDA's libraries, and devices at run time (docker run --gpus all):
#   docker build --build-arg BASE=IMAGE --build-arg TORCH_INDEX=URL -t advcore .
ARG BASE=python:3.11-slim
FROM ${BASE}

# address of the index of all packages; of one more index for torch's builds; extras, such as [eval,hf]
ARG PACKAGE_INDEX
ARG TORCH_INDEX
ARG EXTRAS=

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1
WORKDIR /opt/advcore
COPY setup.py setup.cfg pyproject.toml constraints.txt MANIFEST.in README.md LICENSE ./
COPY advcore advcore
COPY experiments experiments
RUN python -m venv /opt/venv \
    && if [ -n "${PACKAGE_INDEX}" ]; then export PIP_INDEX_URL="${PACKAGE_INDEX}"; fi \
    && if [ -n "${TORCH_INDEX}" ]; then export PIP_EXTRA_INDEX_URL="${TORCH_INDEX}"; fi \
    && /opt/venv/bin/python -m pip install -c constraints.txt ".${EXTRAS}" \
    && /opt/venv/bin/advcore doctor
ENV PATH=/opt/venv/bin:${PATH}

RUN useradd --create-home user
USER user
WORKDIR /home/user
ENTRYPOINT ["advcore"]
CMD ["--help"]
