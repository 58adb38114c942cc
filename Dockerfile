# astarpo on a CUDA GPU. Build: docker build -t astarpo .
# Run:   docker run --gpus all -v "$PWD/runs:/runs" -v "$HOME/.cache/huggingface:/root/.cache/huggingface" astarpo \
#            train webshop --preset qwen_0.5b --out /runs/first
FROM python:3.12-slim
# What torch compiles for the GPU at run time needs a C compiler.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /astarpo
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir '.[liger,lora]'
RUN astarpo --version && astarpo list --json > /dev/null
WORKDIR /runs
ENTRYPOINT ["astarpo"]
CMD ["--help"]
