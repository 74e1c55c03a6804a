# A trained run behind HTTP, on a CPU:
#
#   docker build -t kgfast .
#   docker run --rm -v $PWD/runs:/runs -p 127.0.0.1:8000:8000 kgfast serve /runs/world --host 0.0.0.0
#
# Other commands go in the place of `serve ..`. Where pip must look elsewhere, as for a torch without CUDA:
# --build-arg PIP_EXTRA_INDEX_URL=.. or PIP_INDEX_URL=..
FROM python:3.12-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /source
COPY constraints.txt .
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir -c constraints.txt torch
COPY . .
RUN KGFAST_CUDA=OFF /venv/bin/pip install --no-cache-dir -c constraints.txt ".[joint,serve]"

FROM python:3.12-slim
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home kgfast
COPY --from=build /venv /venv
USER kgfast
ENV PATH=/venv/bin:$PATH
EXPOSE 8000
ENTRYPOINT ["kgfast"]
CMD ["--help"]
