"""Bodies of lines of JSON, which schemathesis cannot make by itself."""

import schemathesis


@schemathesis.serializer("application/x-ndjson", "application/jsonl")
def lines(_context, value):
    return value if isinstance(value, bytes) else str(value).encode()
