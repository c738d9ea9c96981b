# syntax=docker/dockerfile:1
# docker buildx build --platform linux/amd64,linux/arm64 --build-arg COMMIT="$(git rev-parse --short=12 HEAD)" -t NAME .
# `make image` packs the same files without an engine.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
ARG COMMIT=""
ENV PATCHBAY_COMMIT=$COMMIT CARGO_TARGET_DIR=/target
ARG TARGETARCH
# What was compiled before stays, a cache an architecture.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,id=target-$TARGETARCH,target=/target \
    cargo build --release --locked --package patchbay --bin patchbay \
    && install -m 0755 -s /target/release/patchbay /patchbay

# glibc, libgcc and CA certificates, no shell, and not root.
FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="patchbay" \
      org.opencontainers.image.description="The real-time plane for fleets of Linux hosts that run PatchMon agents" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
ARG COMMIT=""
LABEL org.opencontainers.image.revision=$COMMIT
COPY --from=build /patchbay /patchbay
USER 65532:65532
ENV PATCHBAY_DATA_DIR=/var/lib/patchbay
EXPOSE 3001
ENTRYPOINT ["/patchbay"]
