"""Exports models as ONNX graphs, which run without torch (`vtok_codec.codec.onnx_decoder`)."""
