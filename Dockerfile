# The two images, for who has a daemon (`make image` needs none):
#   docker build --target operator --tag REGISTRY/podless/operator:0.1.0 .
#   docker build --target shim     --tag REGISTRY/podless/shim:0.1.0 .

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# Three commands: together, Cargo would unify features and link the compiler into operator and shim.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --profile dist --package podless-operator \
 && cargo build --locked --profile dist --package podless-artifact --features compile --bin podless-compile \
 && cargo build --locked --profile dist --package podless-shim \
 && cp target/dist/podless-operator target/dist/podless-compile target/dist/podless-shim /usr/local/bin/

# glibc, libgcc and the public certificate authorities; no shell.
FROM gcr.io/distroless/cc-debian12:nonroot AS operator
COPY --from=build /usr/local/bin/podless-operator /usr/local/bin/podless-compile /usr/bin/
USER 65532:65532
ENTRYPOINT ["/usr/bin/podless-operator"]

FROM gcr.io/distroless/cc-debian12:nonroot AS shim
COPY --from=build /usr/local/bin/podless-shim /usr/bin/podless-shim
USER 65532:65532
ENTRYPOINT ["/usr/bin/podless-shim"]
