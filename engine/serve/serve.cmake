# The front: gRPC and HTTP listeners over one engine.
pkg_check_modules(MICROHTTPD REQUIRED IMPORTED_TARGET libmicrohttpd)
espalier_library(esp_serve GLOB engine/serve/*.c LINK esp_engine esp_rpc PkgConfig::MICROHTTPD PkgConfig::JANSSON)
