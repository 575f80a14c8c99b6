# Entry point `i2pmae`; mount data, cache and runs under /work.
#   docker build -t i2pmae .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/work" i2pmae \
#       extract-2d shapes --cache cache/shapes.zarr
# Encoders that ship are in the image (`i2pmae models`); those of the Hub are kept in .cache below /work:
#   docker run --rm -v "$PWD:/work" i2pmae embed hf://owner/name shapes
# `--gpus all` needs NVIDIA's Container Toolkit; leave it out to compute on the CPU, and look with
# `i2pmae doctor`. `--user` makes written files yours. Several GPUs exchange gradients through shared
# memory, of which Docker gives 64 MB:
#   docker run --rm --gpus all --shm-size 8g --user "$(id -u):$(id -g)" -v "$PWD:/work" \
#       --entrypoint torchrun i2pmae --nproc-per-node 8 -m i2pmae pretrain --cache cache/ --out runs/first
FROM python:3.11-slim

# Triton builds its launcher with a C compiler at run time.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 i2pmae \
    && python -m venv /opt/i2pmae \
    && mkdir /work \
    && chown i2pmae /work
ENV PATH=/opt/i2pmae/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/work/.cache/huggingface

WORKDIR /opt/src
COPY pyproject.toml README.md LICENSE ./
COPY i2pmae ./i2pmae
COPY pipeline ./pipeline
# The wheels of torch on the package index bring their own CUDA libraries.
RUN pip install --no-cache-dir ".[demo]" && rm -rf /opt/src

# What programs keep for later, as compiled kernels, lies with the data, whichever user runs it.
ENV HOME=/work
USER i2pmae
WORKDIR /work
ENTRYPOINT ["i2pmae"]
CMD ["--help"]
