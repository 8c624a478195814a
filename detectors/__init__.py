"""The request path: numpy, onnxruntime, pydantic and nothing heavier."""
