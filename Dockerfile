# Entry point `i2pmae`; mount data, cache and runs under /work.
#   docker build -t i2pmae .
#   docker run --gpus all -v "$PWD:/work" i2pmae extract-2d shapes --cache cache/shapes.zarr
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

USER i2pmae
WORKDIR /work
ENTRYPOINT ["i2pmae"]
CMD ["--help"]
