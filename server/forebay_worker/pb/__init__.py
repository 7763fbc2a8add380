"""Generated from proto/worker.proto by tools/generate_proto.py; never edited."""
