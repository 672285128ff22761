"""Programs that run in the tools' environment, `.tools/deploy`, for what is a library there: JSON in, JSON out."""
