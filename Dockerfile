# The page and the server of embeddings, for one machine; docs/deployment.md explains each step.
FROM python:3.11-slim-bookworm AS build
WORKDIR /source
COPY constraints.txt .
# PyTorch for CPUs alone: a tenth of the size of the one with CUDA.
RUN python -m venv /opt/mmet && \
    /opt/mmet/bin/pip install --no-cache-dir --constraint constraints.txt \
        --index-url https://download.pytorch.org/whl/cpu torch
COPY . .
RUN /opt/mmet/bin/pip install --no-cache-dir --constraint constraints.txt '.[app]'

FROM python:3.11-slim-bookworm
RUN useradd --create-home --uid 1000 mmet
COPY --from=build /opt/mmet /opt/mmet
ENV PATH=/opt/mmet/bin:$PATH \
    PYTHONUNBUFFERED=1
USER 1000
WORKDIR /home/mmet
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/health', timeout=4)"]
STOPSIGNAL SIGTERM
CMD ["mmet-app", "--gallery", "/galleries/people", "--host", "0.0.0.0", "--port", "7860"]
